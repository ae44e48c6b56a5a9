//! `xtproxy rules gen`: rules and macros to the ruleset that is to be tried.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;

use macros::{Expansion, Macros};
use rules::{Ruleset, Warning};
use serde_json::json;

use super::folder::{Folder, read};
use super::loading::{rules, tell_warnings};
use super::progress::Progress;
use crate::arguments::Gen;
use crate::document;
use crate::run::Failed;
use crate::show::difference::Difference;

/// Words that mean something in rules and could be a macro's name.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    "ACCEPT", "DROP", "RETURN", "REJECT", "LOG", "TPROXY", "MARK", "CT", "NOTRACK", "SNAT", "DNAT",
    "MASQUERADE", "REDIRECT", "NETMAP", "INPUT", "OUTPUT", "FORWARD", "PREROUTING", "POSTROUTING",
    "COMMIT", "NEW", "ESTABLISHED", "RELATED", "INVALID", "UNTRACKED", "FIN", "SYN", "RST", "PSH",
    "ACK", "URG", "ALL", "NONE", "all", "any", "tcp", "udp", "icmp", "gre", "esp", "ah", "sctp",
    "udplite", "multiport", "iprange", "conntrack", "state", "mark", "mac", "comment", "limit",
    "hashlimit", "tproxy", "zone", "set", "owner", "src", "dst", "srcip", "srcport", "dstip",
    "dstport", "sec", "second", "min", "minute", "hour", "day", "reject", "drop", "accept",
];

/// Makes, writes and compares.
pub(super) fn run(arguments: &Gen, json: bool, out: &mut impl Write) -> Result<(), Failed> {
    let folder = Folder::open(&arguments.dir.dir)?;
    let source = Source::read(&folder)?;
    let (ruleset, warnings) = source.parse()?;
    let before = read(&folder.current())?;
    folder.put_made(&source.expansion.text)?;
    let (made, current) = (folder.made(), folder.current());
    let chains = ruleset.tables.iter().flat_map(|table| &table.chains);
    let rule_count = chains.map(|chain| chain.rules.len()).sum::<usize>();
    let table_count = ruleset.tables.len();
    let difference = before.as_deref().map(|before| {
        let progress = Progress::new();
        progress.show("comparing", 0, 0);
        let after = &source.expansion.text;
        Difference::new((&shown(&current), before), (&shown(&made), after))
    });
    tell_warnings(&warnings, 0);
    if json {
        let document = json!({
            "ruleset": made,
            "rules": rule_count,
            "tables": table_count,
            "macros": source.macros.len(),
            "added": difference.as_ref().map(|difference| difference.added),
            "removed": difference.as_ref().map(|difference| difference.removed),
            "diff": difference.as_ref().and_then(|difference| difference.text.as_ref()),
            "warnings": warnings,
        });
        return document::print(out, &document);
    }
    if let Some(difference) = &difference {
        let is_coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        difference.print(out, is_coloured)?;
    }
    let current = shown(&current);
    let change = match &difference {
        None => format!("there is no {current} yet"),
        Some(Difference {
            added: 0,
            removed: 0,
            ..
        }) => format!("the same as {current}"),
        Some(Difference {
            added,
            removed,
            text,
        }) => {
            let shown = match text {
                Some(_) => "",
                None => ", too many to show",
            };
            format!("lines against {current}: {added} added, {removed} removed{shown}")
        }
    };
    let what = rules(u64::try_from(rule_count).unwrap_or(u64::MAX));
    let tables = tables(table_count);
    Ok(writeln!(
        out,
        "{}: {what} in {tables}; {change}",
        shown(&made)
    )?)
}

fn tables(count: usize) -> String {
    match count {
        1 => "1 table".into(),
        _ => format!("{count} tables"),
    }
}

/// The texts that people edit, and what they become.
struct Source {
    /// What errors call the rules.
    name: String,
    text: String,
    macros: Macros,
    expansion: Expansion,
}

impl Source {
    fn read(folder: &Folder) -> Result<Self, Failed> {
        let (input, definitions) = (folder.input(), folder.definitions());
        let Some(text) = read(&input)? else {
            let cure = "no such file; it holds the rules as iptables-save writes them";
            return Err(Failed::Told(format!("{}: {cure}", input.display())));
        };
        let defined = read(&definitions)?.unwrap_or_default();
        let name = input.display().to_string();
        let told = |error: macros::MacroError| Failed::Told(error.to_string());
        let macros = Macros::parse(&shown(&definitions), &defined).map_err(told)?;
        let expansion = macros.expand(&name, &text).map_err(told)?;
        Ok(Self {
            name,
            text,
            macros,
            expansion,
        })
    }

    /// Parses what came of it. Errors and warnings are told of what people edit.
    fn parse(&self) -> Result<(Ruleset, Vec<String>), Failed> {
        let progress = Progress::new();
        let mut show = |done: u64, total: u64| progress.show("parsing", done, total);
        let parsed = Ruleset::parse_with(&self.name, &self.expansion.text, &mut show);
        drop(progress);
        let (ruleset, warnings) = parsed
            .map_err(|error| Failed::Told(self.place(error.line, error.column, &error.message)))?;
        let named = self.macros.named_as(WORDS);
        let expanded = named.iter().chain(&self.expansion.warnings);
        let mut told: Vec<String> = expanded.map(ToString::to_string).collect();
        // What a macro's words have in common is told once.
        let mut same: BTreeMap<(u32, String), u64> = BTreeMap::new();
        for Warning {
            line,
            column,
            message,
            ..
        } in warnings
        {
            let origin = self.origin(line).unwrap_or(line);
            let text = self.place(line, column, &message);
            *same.entry((origin, text)).or_default() += 1;
        }
        told.extend(same.into_iter().map(|((_, text), times)| match times {
            1 => text,
            _ => format!("{text} ({times} times)"),
        }));
        Ok((ruleset, told))
    }

    fn origin(&self, line: u32) -> Option<u32> {
        let index = usize::try_from(line.checked_sub(1)?).ok()?;
        self.expansion.origins.get(index).copied()
    }

    /// A message about a place in what was made, as one about what it was made of.
    fn place(&self, line: u32, column: u32, message: &str) -> String {
        let message = self.lines_of_origin(message);
        let Some(trace) = self.macros.trace(&self.text, &self.expansion, line, column) else {
            return format!("{}: {message}", self.name);
        };
        let place = format!("{}:{}:{}", self.name, trace.line, trace.column);
        let Some(name) = &trace.name else {
            let hint = self.hint(&trace, message.as_str());
            return format!("{place}: {message}{hint}");
        };
        format!("{place}: {message} (a word of the macro {name})")
    }

    /// The macro that was probably meant, if a word of this line is almost one's name.
    fn hint(&self, trace: &macros::Trace, message: &str) -> String {
        let before = usize::try_from(trace.column.saturating_sub(1)).unwrap_or(usize::MAX);
        let at = usize::try_from(trace.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let line = self.text.lines().nth(at).unwrap_or_default();
        let rest: String = line.chars().skip(before).collect();
        let word = rest
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .next();
        let near = word.and_then(|word| self.macros.nearest(word));
        match near {
            Some(near) if !message.contains(near) => format!("; did you mean the macro {near}?"),
            _ => String::new(),
        }
    }

    /// Lines that a message names are those of what was made: here they become those of what it
    /// was made of.
    fn lines_of_origin(&self, message: &str) -> String {
        let mut parts = message.split("line ");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            text.push_str("line ");
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, rest) = part.split_at(digits);
            match number.parse().ok().and_then(|line| self.origin(line)) {
                Some(origin) => text.push_str(&origin.to_string()),
                None => text.push_str(number),
            }
            text.push_str(rest);
        }
        text
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
