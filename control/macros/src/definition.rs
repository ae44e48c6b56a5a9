//! `#define NAME word word ...`: lines to definitions.

use crate::error::{MacroError, Place, quoted};

/// What a text defines, as it is written.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) words: Vec<Word>,
}

/// A word and where it stands. Quotes are part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) place: Place,
}

/// What the preprocessor of C knows and this does not.
const FOREIGN: [&str; 11] = [
    "include", "undef", "if", "ifdef", "ifndef", "else", "elif", "endif", "error", "pragma", "line",
];

/// Reads definitions in order. Whether names are unique is not looked at.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Definition>, MacroError> {
    let mut definitions: Vec<Definition> = Vec::new();
    let mut goes_on = false;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines()) {
        let (line, has_backslash) = match line.trim_end().strip_suffix('\\') {
            Some(rest) => (rest, true),
            None => (line, false),
        };
        if goes_on {
            refuse_define(file, line, number)?;
            if let Some(open) = definitions.last_mut() {
                open.words.extend(words(file, line, number, 1)?);
            }
            goes_on = has_backslash;
        } else if let Some(definition) = begin(file, line, number)? {
            definitions.push(definition);
            goes_on = has_backslash;
        }
    }
    Ok(definitions)
}

/// The rest of a definition that begins another was meant to be its end.
fn refuse_define(file: &str, line: &str, number: u32) -> Result<(), MacroError> {
    let trimmed = line.trim_start();
    if !trimmed.starts_with("#define") {
        return Ok(());
    }
    let message = "the line before ends with a backslash, so this would be a comment of its \
                   definition; remove the backslash, or the line";
    Err(column_of(line, trimmed, number).error(file, message))
}

/// Where `rest`, with which `line` ends, begins.
fn column_of(line: &str, rest: &str, number: u32) -> Place {
    let before = line.chars().count() - rest.chars().count();
    let column = u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1);
    Place {
        line: number,
        column,
    }
}

/// A line that is not the last one's rest: a definition's first, or none of one.
fn begin(file: &str, line: &str, number: u32) -> Result<Option<Definition>, MacroError> {
    let trimmed = line.trim_start();
    let place = column_of(line, trimmed, number);
    if trimmed.is_empty() {
        return Ok(None);
    }
    let Some(after) = trimmed.strip_prefix('#') else {
        let first = trimmed.split_whitespace().next().unwrap_or_default();
        let message = format!(
            "{} is no definition; one is written '#define NAME word word ...', and goes on in \
             the next line after a backslash",
            quoted(first)
        );
        return Err(place.error(file, message));
    };
    let directive = after.split(char::is_whitespace).next().unwrap_or_default();
    if directive == "define" {
        let rest = after.strip_prefix("define").unwrap_or_default();
        let column = place.column.saturating_add(7);
        return define(file, rest, place, column).map(Some);
    }
    let is_near = (4..=10).contains(&directive.len())
        && directive.starts_with(char::is_alphabetic)
        && strsim::damerau_levenshtein(&directive.to_lowercase(), "define") <= 2;
    if is_near || FOREIGN.contains(&directive) {
        let message = format!(
            "{} is unknown here, only '#define NAME word word ...' is known; a comment begins \
             with '# '",
            quoted(&format!("#{directive}"))
        );
        return Err(place.error(file, message));
    }
    Ok(None)
}

/// What follows `#define`, from this column on.
fn define(file: &str, rest: &str, at: Place, column: u32) -> Result<Definition, MacroError> {
    let mut words = words(file, rest, at.line, column)?.into_iter();
    let Some(name) = words.next() else {
        let message = "a name is missing; write '#define NAME word word ...'";
        return Err(at.error(file, message));
    };
    let mut letters = name.text.chars();
    let is_name = letters
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        let message = format!(
            "{} cannot be a macro's name; it is made of letters, digits and '_', and does not \
             begin with a digit",
            quoted(&name.text)
        );
        return Err(name.place.error(file, message));
    }
    Ok(Definition {
        name: name.text,
        place: name.place,
        words: words.collect(),
    })
}

/// The words of a line up to its comment. Double quotes hold words together.
fn words(file: &str, line: &str, number: u32, column: u32) -> Result<Vec<Word>, MacroError> {
    let mut words: Vec<Word> = Vec::new();
    let mut open: Option<Place> = None;
    let (mut is_inside, mut is_escaped) = (false, false);
    for (column, c) in (column..).zip(line.chars()) {
        let place = Place {
            line: number,
            column,
        };
        if open.is_none() && c.is_whitespace() {
            is_inside = false;
            continue;
        }
        if !is_inside {
            if c == '#' {
                break;
            }
            is_inside = true;
            let text = String::new();
            words.push(Word { text, place });
        }
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if open.is_some() => is_escaped = true,
            '"' => open = if open.is_some() { None } else { Some(place) },
            _ => {}
        }
        if let Some(word) = words.last_mut() {
            word.text.push(c);
        }
    }
    if let Some(place) = open {
        let message = "this quote is not closed; end it with '\"' on the same line";
        return Err(place.error(file, message));
    }
    for word in &words {
        let message = match word.text.as_str() {
            "\\" => "a backslash goes on with the next line only at the very end of this one",
            text if text.starts_with("/*") || text.starts_with("//") => {
                "a comment begins with '#' here"
            }
            _ => continue,
        };
        return Err(word.place.error(file, message));
    }
    Ok(words)
}
