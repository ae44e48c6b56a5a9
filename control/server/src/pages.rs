//! The rules in force, in lines that are not too long.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use protocol::{ErrorKind, Failure, REPLY_MAX_BYTES, Reply, RuleRow, Rules};
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::answers::Answers;
use crate::control::{send, send_line};

/// How many rules go into one line, if they are as long as rules are: some 200 KB.
const RULES_PER_LINE: usize = 500;
/// How much is told of a rule that alone is too long for a line.
const TEXT_CHARS: usize = 1024;

/// Tells the rules. They are fetched and written down on a thread of their own, line by line as
/// the client takes them.
pub(crate) async fn show(
    stream: &mut (impl AsyncWrite + Unpin),
    answers: &Answers,
) -> io::Result<()> {
    let machine = Arc::clone(&answers.sources.machine);
    let (told, mut lines) = mpsc::channel(1);
    let writing = spawn_blocking(move || {
        for line in Lines::new(machine.rules()) {
            // The client has gone.
            if told.blocking_send(line?).is_err() {
                break;
            }
        }
        serde_json::Result::Ok(())
    });
    while let Some(line) = lines.recv().await {
        send_line(stream, &line).await?;
    }
    let error = match writing.await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!("telling the rules failed: {error}");
    let failure = Failure::new(
        ErrorKind::Internal,
        "the daemon failed at telling its rules",
    );
    send(stream, &Reply::Error(failure)).await
}

/// Pages that are still to be written down.
struct Lines(VecDeque<Rules>);

impl Lines {
    fn new(rules: Rules) -> Self {
        Self(rules.pages(RULES_PER_LINE).into())
    }
}

impl Iterator for Lines {
    type Item = serde_json::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let rules = self.0.pop_front()?;
            let more = !self.0.is_empty();
            let reply = Reply::Rules { rules, more };
            let line = match protocol::line(&reply) {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            let Reply::Rules { rules, .. } = reply else {
                return None;
            };
            if line.len() <= REPLY_MAX_BYTES {
                return Some(Ok(line));
            }
            let held = size(&rules);
            if held <= 1 {
                let rules = shortened(rules);
                return Some(protocol::line(&Reply::Rules { rules, more }));
            }
            for page in rules.pages(held / 2).into_iter().rev() {
                self.0.push_front(page);
            }
        }
    }
}

/// How many rules and empty chains a page holds.
fn size(page: &Rules) -> usize {
    let chains = page.tables.iter().flat_map(|table| &table.chains);
    chains.map(|chain| chain.rules.len().max(1)).sum()
}

fn shortened(mut page: Rules) -> Rules {
    let chains = page.tables.iter_mut().flat_map(|table| &mut table.chains);
    chains.flat_map(|chain| &mut chain.rules).for_each(shorten);
    page
}

fn shorten(row: &mut RuleRow) {
    let long = [&mut row.text, &mut row.extra, &mut row.target];
    let others = [&mut row.source, &mut row.destination];
    for text in long.into_iter().chain(others) {
        if let Some((end, _)) = text.char_indices().nth(TEXT_CHARS) {
            text.truncate(end);
            text.push_str(" [...]");
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::{RuleChain, RuleTable};

    use super::*;

    fn rules(texts: impl Iterator<Item = String>) -> Rules {
        let row = |(text, line)| RuleRow {
            line,
            text,
            ..RuleRow::default()
        };
        let chain = |name: &str, rules| RuleChain {
            name: name.into(),
            rules,
            ..RuleChain::default()
        };
        let chains = vec![
            chain("LONG", texts.zip(1..).map(row).collect()),
            chain("EMPTY", Vec::new()),
        ];
        let table = RuleTable {
            name: "filter".into(),
            chains,
        };
        Rules {
            generation: 7,
            tables: vec![table],
        }
    }

    /// The lines, put together again, and how many there were.
    fn through(rules: &Rules) -> (Rules, usize) {
        let mut whole: Option<Rules> = None;
        let mut lines = Lines::new(rules.clone()).peekable();
        let mut count = 0;
        while let Some(line) = lines.next() {
            let line = line.unwrap();
            assert!(line.len() <= REPLY_MAX_BYTES, "{} bytes", line.len());
            let reply = serde_json::from_slice(&line).unwrap();
            let Reply::Rules { rules, more } = reply else {
                panic!("{reply:?}");
            };
            assert_eq!(more, lines.peek().is_some());
            match &mut whole {
                None => whole = Some(rules),
                Some(whole) => whole.append(rules),
            }
            count += 1;
        }
        (whole.unwrap(), count)
    }

    #[test]
    fn many_rules_come_whole_in_short_lines() {
        let many = rules((0..5_000).map(|n| format!("-s 10.0.0.{n} -j DROP")));
        assert_eq!(through(&many), (many, 11));
        let none = Rules::default();
        assert_eq!(through(&none), (none, 1));
    }

    #[test]
    fn long_rules_come_in_more_lines() {
        let long = rules((0..1_000).map(|n| format!("{n} {}", "\u{1}".repeat(4_000))));
        let (whole, lines) = through(&long);
        assert_eq!(whole, long);
        assert!(
            lines >= 6,
            "{lines}: each of those characters takes six bytes"
        );
    }

    #[test]
    fn a_rule_that_fits_no_line_is_shortened() {
        let texts = ["a".to_owned(), "ü".repeat(3_000_000), "b".to_owned()];
        let (whole, _) = through(&rules(texts.into_iter()));
        let told = &whole.tables[0].chains[0].rules;
        assert_eq!(told.len(), 3);
        assert_eq!(told[1].text, format!("{} [...]", "ü".repeat(TEXT_CHARS)));
        assert_eq!((told[0].text.as_str(), told[2].text.as_str()), ("a", "b"));
    }
}
