//! The raw side: tables of TOML whose keys are read by name and type, and every mistake noted with its place.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::{Notes, Wrong};

/// A table being read. Each key is asked for once, by name; [`Section::finish`] notes those that nobody asked for.
pub(super) struct Section<'d> {
    /// The table's path, empty at the top.
    path: String,
    span: Range<usize>,
    table: &'d DeTable<'d>,
    asked: Vec<&'static str>,
}

/// A value with its key's path and place, for checks that concern several keys.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub value: T,
    pub path: String,
    pub span: Range<usize>,
}

type Parse<T> = fn(&DeValue<'_>) -> Result<T, Wrong>;

impl<'d> Section<'d> {
    /// The whole document.
    pub(super) fn top(document: &'d Spanned<DeTable<'d>>) -> Self {
        // What is missing from the whole file is missing at its beginning.
        Self { path: String::new(), span: 0..0, table: document.get_ref(), asked: Vec::new() }
    }

    pub(super) fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// The path of `key` in this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Whether the file gives `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// The value of `key`, which must be there. `None` if it is not, or wrong; that is noted.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        parse: Parse<T>,
        notes: &mut Notes<'_>,
    ) -> Option<Found<T>> {
        if !self.has(key) {
            self.asked.push(key);
            let wrong = Wrong::new("missing", format!("write {key} = {example}"));
            notes.add(&self.span, self.path_of(key), wrong);
            return None;
        }
        self.optional(key, None, parse, notes)
    }

    /// The value of `key`, or `default`. `None` if it is wrong (that is noted) or if there is neither.
    pub(super) fn optional<T>(
        &mut self,
        key: &'static str,
        default: Option<T>,
        parse: Parse<T>,
        notes: &mut Notes<'_>,
    ) -> Option<Found<T>> {
        self.asked.push(key);
        let path = self.path_of(key);
        let Some((_, value)) = self.entry(key) else {
            return default.map(|value| Found { value, path, span: self.span.clone() });
        };
        match parse(value.get_ref()) {
            Ok(read) => Some(Found { value: read, path, span: value.span() }),
            Err(wrong) => {
                notes.add(&value.span(), path, wrong);
                None
            }
        }
    }

    /// The value of `key`, or `default`; see [`Section::optional`].
    pub(super) fn or<T>(&mut self, key: &'static str, default: T, parse: Parse<T>, notes: &mut Notes<'_>) -> Option<T> {
        self.optional(key, Some(default), parse, notes).map(|found| found.value)
    }

    /// The table `[key]`. `None` if it is not there, or not a table; only the latter is noted.
    pub(super) fn table(&mut self, key: &'static str, notes: &mut Notes<'_>) -> Option<Section<'d>> {
        self.asked.push(key);
        let path = self.path_of(key);
        let (at, value) = self.entry(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section { path, span: at.clone(), table, asked: Vec::new() }),
            other => {
                let header = header(&path);
                let remedy = match other {
                    DeValue::Array(_) => format!("write [{header}] once, with one pair of brackets"),
                    _ => format!("write a table, [{header}]"),
                };
                notes.add(&at, path, Wrong::new(format!("found {}", describe(other)), remedy));
                None
            }
        }
    }

    /// The tables `[[key]]`, none if it is not there or empty. Their paths have the entry's `name_key`, or else its
    /// number. `None` if there is no table but something else; that is noted.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        name_key: &str,
        notes: &mut Notes<'_>,
    ) -> Option<Vec<Section<'d>>> {
        self.asked.push(key);
        let path = self.path_of(key);
        let Some((at, value)) = self.entry(key) else { return Some(Vec::new()) };
        let header = header(&path);
        let DeValue::Array(entries) = value.get_ref() else {
            let wrong = Wrong::new(
                format!("found {}", describe(value.get_ref())),
                format!("write [[{header}]] for each, with two pairs of brackets"),
            );
            notes.add(&at, path, wrong);
            return None;
        };
        let mut sections = Vec::new();
        for (number, entry) in (1..).zip(entries.iter()) {
            let DeValue::Table(table) = entry.get_ref() else {
                let wrong = Wrong::new(format!("found {}", describe(entry.get_ref())), format!("write [[{header}]]"));
                notes.add(&entry.span(), format!("{path}[{number}]"), wrong);
                continue;
            };
            let name = entry_of(table, name_key).and_then(|(_, name)| name.get_ref().as_str());
            let path = match name {
                Some(name) if is_plain(name) => format!("{path}[{name}]"),
                _ => format!("{path}[{number}]"),
            };
            sections.push(Section { path, span: entry.span(), table, asked: Vec::new() });
        }
        (!sections.is_empty() || entries.is_empty()).then_some(sections)
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self, notes: &mut Notes<'_>) {
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let remedy = match nearest(name, self.asked.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the keys here are {}", list(self.asked.iter().copied())),
            };
            notes.add(&key.span(), self.path_of(&shown(name)), Wrong::new("unknown key", remedy));
        }
    }

    fn entry(&self, key: &str) -> Option<(Range<usize>, &'d Spanned<DeValue<'d>>)> {
        entry_of(self.table, key)
    }
}

fn entry_of<'d>(table: &'d DeTable<'d>, key: &str) -> Option<(Range<usize>, &'d Spanned<DeValue<'d>>)> {
    // The map's keys are spanned and cannot be looked up by text; tables are small.
    table.iter().find(|(name, _)| name.get_ref() == key).map(|(name, value)| (name.span(), value))
}

/// What a value is, in words.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => shown_text(text),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(word) => format!("the word {word}"),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A text as it may be printed: quoted, escaped and not too long.
pub(super) fn shown_text(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return format!("{text:?}");
    }
    format!("{:?}...", text.chars().take(SHOWN_CHARS_MAX).collect::<String>())
}

/// The word of `words` that somebody who wrote `text` most likely meant.
pub(super) fn nearest<'w>(text: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    if text.chars().count() > SHOWN_CHARS_MAX {
        return None;
    }
    let text = text.to_ascii_lowercase().replace('-', "_");
    let near = |word: &'w str| {
        let plain = word.replace('-', "_");
        let contains = text.len() >= 3 && (plain.contains(&text) || text.contains(&plain));
        let distance = if contains { 1 } else { edits(&text, &plain) };
        (distance <= 2.min(plain.len() / 2)).then_some((distance, word))
    };
    words.filter_map(near).min_by_key(|(distance, _)| *distance).map(|(_, word)| word)
}

/// `a, b and c`.
pub(super) fn list<'w>(words: impl Iterator<Item = &'w str>) -> String {
    let words: Vec<_> = words.collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// A path as a TOML header has it: without the entries' names.
fn header(path: &str) -> String {
    let mut header = String::new();
    let mut depth = 0;
    for c in path.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ if depth == 0 => header.push(c),
            _ => {}
        }
    }
    header
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= SHOWN_CHARS_MAX && name.chars().all(plain)
}

/// A key as TOML writes it.
fn shown(key: &str) -> String {
    if is_plain(key) { key.to_owned() } else { shown_text(key) }
}

/// How many letters have to be added, removed, changed or swapped with the next one to make `b` of `a`
/// (optimal string alignment distance).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

/// Longest text that a message repeats whole, in characters.
const SHOWN_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions() {
        let keys = ["name", "bind", "pin_ttl", "server", "on_isolation", "max_connections"];
        let check =
            |text: &str, expected: Option<&str>| assert_eq!(nearest(text, keys.into_iter()), expected, "{text}");
        check("servers", Some("server"));
        check("nmae", Some("name"));
        check("pin-ttl", Some("pin_ttl"));
        check("ttl", Some("pin_ttl"));
        check("Bind", Some("bind"));
        check("isolation", Some("on_isolation"));
        check("max_conn", Some("max_connections"));
        check("colour", None);
        check("x", None);
        check("", None);
    }

    #[test]
    fn edits_are_counted() {
        for (a, b, expected) in
            [("", "", 0), ("ab", "", 2), ("ab", "ba", 1), ("abc", "abd", 1), ("wieght", "weight", 1)]
        {
            assert_eq!(edits(a, b), expected, "{a} {b}");
        }
    }
}
