//! Follows server-sent events of the fleet: where an instance breaks off, it goes on at the next one from the last position.

use std::{
    io::{self, BufRead, BufReader, Read},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    Result,
    client::{Client, ROUND_PAUSE, begin_download, nobody, query, refusal},
};

/// How long to look for an instance after one broke off.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest line of an event, and longest data of it, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Longest answer of an instance that refuses, in bytes.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;

/// An event as it came.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its name.
    pub kind: String,
    /// What it says.
    pub data: String,
    /// All up to there was told.
    pub position: Option<String>,
}

/// Reads events.
pub struct Follower<'c> {
    client: &'c Client,
    path: &'static str,
    query: Vec<(&'static str, Option<String>)>,
    /// All up to there was told.
    position: String,
    /// Which instance is asked next.
    turn: usize,
    reached: bool,
    lines: Option<Box<dyn BufRead>>,
}

impl<'c> Follower<'c> {
    /// Follows what comes after `position` of what `query` says.
    pub fn new(
        client: &'c Client,
        path: &'static str,
        query: Vec<(&'static str, Option<String>)>,
        position: String,
    ) -> Self {
        Self { client, path, query, position, turn: 0, reached: false, lines: None }
    }

    /// The next event; waits for it.
    pub fn next(&mut self) -> Result<Event> {
        loop {
            let mut lines = match self.lines.take() {
                Some(lines) => lines,
                None => self.connect()?,
            };
            match read_event(&mut lines, &mut self.position) {
                Ok(event) => {
                    self.lines = Some(lines);
                    return Ok(event);
                }
                // It broke off, or came to its end as each one does after some minutes.
                Err(_) => self.turn += 1,
            }
        }
    }

    /// The first instance that lets itself be followed.
    fn connect(&mut self) -> Result<Box<dyn BufRead>> {
        let until = Instant::now() + PATIENCE;
        let mut asked = self.query.clone();
        asked.push(("after", Some(self.position.clone())));
        let path = self.path.to_owned() + &query(&asked);
        let endpoints = self.client.endpoints();
        loop {
            let mut unreached = Vec::new();
            let mut refused = None;
            if self.reached {
                sleep(ROUND_PAUSE);
            }
            for _ in endpoints {
                let endpoint = &endpoints[self.turn % endpoints.len()];
                match begin_download(endpoint, &path) {
                    Ok((200, rest)) => {
                        self.reached = true;
                        return Ok(Box::new(BufReader::new(rest)));
                    }
                    Ok((status, rest)) => {
                        let mut body = Vec::new();
                        // What it said of itself is worth showing also when it broke off.
                        drop(rest.take(REFUSAL_BYTES_MAX).read_to_end(&mut body));
                        match refusal(endpoint, status, &String::from_utf8_lossy(&body)) {
                            (failure, true) => refused = Some(failure),
                            (failure, false) => return Err(failure),
                        }
                    }
                    Err(error) => unreached.push(format!("{endpoint}: {error}")),
                }
                self.turn += 1;
            }
            if !self.reached || Instant::now() >= until {
                return Err(refused.unwrap_or_else(|| nobody(&unreached)));
            }
        }
    }
}

/// Reads up to the end of the next event, and what positions are told on the way.
fn read_event(lines: &mut dyn BufRead, position: &mut String) -> io::Result<Event> {
    let mut event = Event::default();
    loop {
        let line = read_line(lines)?;
        if line.is_empty() {
            if let Some(reached) = &event.position {
                position.clone_from(reached);
            }
            // Without data it was a sign of life, with a position perhaps.
            match event.data.is_empty() {
                true => event = Event::default(),
                false => return Ok(event),
            }
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event.kind),
            "data" if event.data.is_empty() => value.clone_into(&mut event.data),
            "data" => return Err(io::Error::new(io::ErrorKind::InvalidData, "an event of several lines")),
            "id" => event.position = Some(value.to_owned()),
            _ => {}
        }
    }
}

fn read_line(lines: &mut dyn BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    lines.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    match line.pop() {
        Some(b'\n') => {}
        Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long, or broke off")),
        None => return Err(io::ErrorKind::UnexpectedEof.into()),
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the event is no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> (Vec<Event>, String) {
        let (mut events, mut position) = (Vec::new(), "at first".to_owned());
        while let Ok(event) = read_event(&mut bytes, &mut position) {
            events.push(event);
        }
        (events, position)
    }

    #[test]
    fn events_are_read_and_positions_kept() {
        let (events, position) = read(
            b"retry: 1000\nid: a\n\n: nothing new\nid: b\n\nevent: left\ndata: {}\n\nevent: changed\r\ndata:{1}\r\nid: c\r\n\r\n",
        );
        let event = |kind: &str, data: &str, position: Option<&str>| Event {
            kind: kind.into(),
            data: data.into(),
            position: position.map(Into::into),
        };
        assert_eq!(events, [event("left", "{}", None), event("changed", "{1}", Some("c"))]);
        assert_eq!(position, "c");
        // One that broke off is told again: its position does not count.
        assert_eq!(read(b"event: left\ndata: {}\nid: d\n"), (Vec::new(), "at first".to_owned()));
        assert_eq!(read(b"event: left\ndata: \xff\n\n").0, []);
        assert_eq!(read(b"data: 1\ndata: 2\n\n").0, []);
        let long = [b"data: ".as_slice(), &vec![b'x'; LINE_BYTES_MAX], b"\n\n"].concat();
        assert_eq!(read(&long).0, []);
    }
}
