//! A mistake in a configuration file: where, which key, what was found, what would be right.

use std::{fmt, ops::Range};

/// One mistake. Prints as `FILE:LINE:COLUMN: KEY: problem; remedy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The file as it was named.
    pub file: String,
    /// Where in the file; `None` if the file could not be read at all.
    pub place: Option<Place>,
    /// The key's path, with names for list entries: `pool[web].server[s1].weight`. Empty if no key is concerned.
    pub key: String,
    /// What was found.
    pub problem: String,
    /// What would be right.
    pub remedy: String,
}

/// A place in a text. Ordered as one reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// All mistakes of a file in the order of their places, at least one. Prints one per line, then their number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<Mistake>);

/// What is wrong with one value, and what would be right.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub problem: String,
    pub remedy: String,
}

/// Collects the mistakes of a text while it is read.
pub(super) struct Notes<'t> {
    file: &'t str,
    text: &'t str,
    /// Where each line begins, in bytes.
    line_starts: Vec<usize>,
    mistakes: Vec<Mistake>,
}

impl Wrong {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

impl<'t> Notes<'t> {
    pub(super) fn new(file: &'t str, text: &'t str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file, text, line_starts, mistakes: Vec::new() }
    }

    /// The key at `span`, whose path is `key`, is wrong.
    pub(super) fn add(&mut self, span: &Range<usize>, key: impl Into<String>, wrong: Wrong) {
        let place = Some(self.place(span));
        let Wrong { problem, remedy } = wrong;
        self.mistakes.push(Mistake { file: self.file.to_owned(), place, key: key.into(), problem, remedy });
    }

    /// The text ends where bytes begin that are not UTF-8.
    pub(super) fn not_utf8(&mut self) {
        let end = self.text.len();
        self.add(&(end..end), "", Wrong::new("this byte is not UTF-8", "save the file as UTF-8"));
    }

    /// The text is no TOML.
    pub(super) fn not_toml(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        let found = self.text.get(span.clone()).filter(|text| !text.is_empty() && text.len() <= 40);
        let wrong = match (error.message(), found) {
            ("duplicate key", Some(found)) => {
                let remedy = match self.list_header(&span) {
                    Some(header) => format!("write [[{header}]] for each, with two pairs of brackets"),
                    None => "keep one of them".to_owned(),
                };
                Wrong::new(format!("{found} is given twice in this table"), remedy)
            }
            (message, Some(found)) if message.starts_with("invalid boolean") => {
                Wrong::new(format!("{found} is no value"), "write texts in quotes, and true or false in full")
            }
            (message, Some(found)) => Wrong::new(format!("not TOML at {found:?}: {message}"), TOML_REMEDY),
            (message, None) => Wrong::new(format!("not TOML: {message}"), TOML_REMEDY),
        };
        self.add(&span, "", wrong);
    }

    /// What is between the brackets of the header at `span`, if there is a list of such tables.
    fn list_header(&self, span: &Range<usize>) -> Option<&'t str> {
        let line = self.text.lines().nth(self.place(span).line.checked_sub(1)?)?;
        let header = line.trim_start().strip_prefix('[')?.trim_start_matches('[').split(']').next()?.trim();
        let last = header.rsplit('.').next()?.trim();
        LISTS.contains(&last).then_some(header)
    }

    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= span.start);
        let line_start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let before = self.text.get(line_start..span.start).unwrap_or_default();
        Place { line, column: before.chars().count() + 1 }
    }

    /// The result of reading: `read` if nothing was wrong.
    pub(super) fn finish<T>(mut self, read: Option<T>) -> Result<T, Mistakes> {
        self.mistakes.sort_by_key(|mistake| mistake.place);
        match read {
            Some(read) if self.mistakes.is_empty() => Ok(read),
            _ => {
                debug_assert!(!self.mistakes.is_empty(), "a value is only missing where a mistake was noted");
                Err(Mistakes(self.mistakes))
            }
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

const TOML_REMEDY: &str = "see https://toml.io for the format";

/// The tables of which there is a list.
const LISTS: [&str; 3] = ["pool", "server", "instance"];

impl Mistakes {
    /// The mistakes, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }
}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(place) = self.place {
            write!(f, ":{place}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.0 {
            writeln!(f, "{mistake}")?;
        }
        match self.0.len() {
            1 => write!(f, "1 mistake"),
            count => write!(f, "{count} mistakes"),
        }
    }
}

impl std::error::Error for Mistakes {}
