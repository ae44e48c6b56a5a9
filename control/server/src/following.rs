//! A conversation about the log.

use std::io;
use std::time::Duration;

use protocol::{ErrorKind, Failure, Reply};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::sleep;

use crate::control::send;
use crate::journal::Journal;

/// How many entries go into one line: some 200 KB.
const ENTRIES_PER_LINE: usize = 200;
/// How often one who follows hears that there is nothing: so that both ends learn of the other's
/// death.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(10);

/// Tells the last `tail` entries.
pub(crate) async fn tell(
    stream: &mut (impl AsyncWrite + Unpin),
    journal: &Journal,
    tail: u32,
) -> io::Result<()> {
    let (mut cursor, end) = journal.last(tail);
    loop {
        let left = usize::try_from(end - cursor.min(end)).unwrap_or(usize::MAX);
        let entries = journal.read(&mut cursor, left.min(ENTRIES_PER_LINE));
        let more = cursor < end;
        send(stream, &Reply::Log { entries, more }).await?;
        if !more {
            return Ok(());
        }
    }
}

/// Tells the last `tail` entries and then what comes, until the client hangs up. One who does
/// not read is cut off; one who reads slowly hears how much he has missed.
pub(crate) async fn follow(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    journal: &Journal,
    tail: u32,
) -> io::Result<()> {
    let Some(_seat) = journal.seat() else {
        let message = "too many follow the log already";
        return send(stream, &refused(message)).await;
    };
    let mut news = journal.news();
    let (mut cursor, _) = journal.last(tail);
    let mut is_silent = false;
    loop {
        let entries = journal.read(&mut cursor, ENTRIES_PER_LINE);
        if !entries.is_empty() || !is_silent {
            is_silent = entries.is_empty();
            send(
                stream,
                &Reply::Log {
                    entries,
                    more: true,
                },
            )
            .await?;
            continue;
        }
        let mut byte = [0];
        tokio::select! {
            changed = news.changed() => if changed.is_err() {
                return Ok(());
            },
            () = sleep(SIGN_OF_LIFE_EVERY) => is_silent = false,
            read = stream.read(&mut byte) => return match read? {
                0 => Ok(()),
                _ => {
                    let message = "one who follows the log cannot ask on the same connection";
                    send(stream, &refused(message)).await
                }
            },
        }
    }
}

fn refused(message: &str) -> Reply {
    Reply::Error(Failure::new(ErrorKind::Refused, message))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use protocol::{LogEntry, LogKind};
    use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    /// More than the ring keeps.
    const MANY: u64 = 6_000;

    fn numbered(numbers: std::ops::Range<u64>) -> Vec<LogEntry> {
        let entry = |at_ns| LogEntry {
            at_ns,
            prefix: "x".repeat(100),
            ..LogEntry::default()
        };
        numbers.map(entry).collect()
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let bounded = async { timeout(Duration::from_secs(30), test).await };
        runtime.block_on(bounded).unwrap();
    }

    async fn next(lines: &mut BufReader<DuplexStream>) -> (Vec<LogEntry>, bool) {
        let mut line = String::new();
        lines.read_line(&mut line).await.unwrap();
        match serde_json::from_str(&line).unwrap() {
            Reply::Log { entries, more } => (entries, more),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_long_tail_comes_in_several_lines_and_ends() {
        run(async {
            let journal = Journal::default();
            journal.put(numbered(0..1_000));
            let (mut ours, theirs) = duplex(1 << 20);
            tell(&mut ours, &journal, 450).await.unwrap();
            let mut lines = BufReader::new(theirs);
            let mut told = Vec::new();
            for (length, more) in [(200, true), (200, true), (50, false)] {
                let (entries, and) = next(&mut lines).await;
                assert_eq!((entries.len(), and), (length, more));
                told.extend(entries);
            }
            assert_eq!((told[0].at_ns, told[449].at_ns), (550, 999));
            tell(&mut ours, &journal, 0).await.unwrap();
            assert_eq!(next(&mut lines).await, (Vec::new(), false));
        });
    }

    #[test]
    fn one_who_reads_slowly_hears_how_much_he_has_missed() {
        run(async {
            let journal = Journal::default();
            let (mut ours, theirs) = duplex(64);
            let mut lines = BufReader::with_capacity(64, theirs);
            let reading = async {
                assert!(next(&mut lines).await.0.is_empty());
                journal.put(numbered(0..MANY));
                let (mut told, mut missed) = (0, 0);
                while told + missed < MANY {
                    for entry in next(&mut lines).await.0 {
                        match entry.kind {
                            LogKind::Lost => missed += entry.count,
                            _ => {
                                assert_eq!(entry.at_ns, told + missed, "in order");
                                told += 1;
                            }
                        }
                    }
                }
                (told, missed)
            };
            let counted = tokio::select! {
                ended = follow(&mut ours, &journal, 0) => panic!("{ended:?}"),
                counted = reading => counted,
            };
            assert_eq!(counted, (4_096, MANY - 4_096));
        });
    }

    #[test]
    fn one_who_does_not_read_is_cut_off() {
        run(async {
            let journal = Journal::default();
            journal.put(numbered(0..100));
            let (mut ours, _theirs) = duplex(1_000);
            let begun = Instant::now();
            let ended = follow(&mut ours, &journal, 100).await.unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
            assert!(begun.elapsed() < Duration::from_secs(8));
            // And his seat is free again.
            let seats: Vec<_> = std::iter::from_fn(|| journal.seat()).collect();
            assert_eq!(seats.len(), 16);
        });
    }

    #[test]
    fn one_who_hangs_up_is_forgotten() {
        run(async {
            let journal = Journal::default();
            let (mut ours, theirs) = duplex(1_000);
            let mut lines = BufReader::new(theirs);
            let hanging_up = async {
                assert!(next(&mut lines).await.0.is_empty());
                drop(lines);
            };
            let (ended, ()) = tokio::join!(follow(&mut ours, &journal, 0), hanging_up);
            ended.unwrap();
        });
    }
}
