//! Reads `[vip]`: how an instance announces the VIPs, which is its host's affair and is not committed.

use std::{path::PathBuf, time::Duration};

use toml::de::DeValue;

use super::{
    error::{Notes, Wrong},
    raw::{Found, Section, describe, shown_text},
    tls::LABEL,
    values,
};

/// `[vip]`: how VIPs are announced and withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipConfig {
    /// By whom; `{label}` in a path stands for the instance's label.
    announcer: Announcer,
    /// How long new connections are still taken after a withdrawal.
    pub settle: Duration,
    /// Silence of an instance that withdraws its VIPs.
    pub hold: Duration,
}

/// Who announces VIPs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcer {
    /// BIRD, by enabling and disabling protocols.
    Bird {
        /// Its control socket.
        socket: PathBuf,
        /// The protocols' name, or a pattern of their names.
        protocol: String,
    },
    /// A program with its first arguments.
    Command(Vec<String>),
}

impl VipConfig {
    /// Who announces for instance `label`.
    #[must_use]
    pub fn announcer(&self, label: &str) -> Announcer {
        let with_label = |text: &String| text.replace(LABEL, label);
        match &self.announcer {
            Announcer::Bird { socket, protocol } => Announcer::Bird {
                socket: socket.to_string_lossy().replace(LABEL, label).into(),
                protocol: with_label(protocol),
            },
            Announcer::Command(command) => Announcer::Command(command.iter().map(with_label).collect()),
        }
    }
}

/// `None` if something is missing or wrong, `Some(None)` if the file has no such table.
pub(super) fn read(top: &mut Section<'_>, notes: &mut Notes<'_>) -> Option<Option<VipConfig>> {
    let given = top.has("vip");
    let Some(mut section) = top.table("vip", notes) else {
        return (!given).then_some(None);
    };
    let is_bird = section.required("announce", "\"bird\"", |value| values::word(value, &ANNOUNCERS), notes);
    let socket = section.optional("bird_socket", Some(BIRD_SOCKET.to_owned()), socket, notes);
    let protocol = section.optional("bird_protocol", Some(BIRD_PROTOCOL.to_owned()), protocol, notes);
    let command = section.optional("command", None, command, notes);
    let settle = section.or("settle", 500, |value| values::duration(value, 0..=60_000), notes);
    let hold = section.or("hold", 1_000, |value| values::duration(value, 100..=60_000), notes);
    let is_bird = is_bird.map(|found| found.value);
    match is_bird {
        Some(true) => alone(&section, "command", &command, "command", notes),
        Some(false) => {
            alone(&section, "bird_socket", &socket, "bird", notes);
            alone(&section, "bird_protocol", &protocol, "bird", notes);
            if !section.has("command") {
                let wrong = Wrong::new("missing", "write command = [\"/etc/rocinante/vip\"]");
                notes.add(section.span(), section.path_of("command"), wrong);
            }
        }
        None => {}
    }
    section.finish(notes);
    let announcer = match is_bird? {
        true => Announcer::Bird { socket: socket?.value.into(), protocol: protocol?.value },
        false => Announcer::Command(command?.value),
    };
    let (settle, hold) = (Duration::from_millis(settle?), Duration::from_millis(hold?));
    Some(Some(VipConfig { announcer, settle, hold }))
}

/// Notes `found` if the file gives `key`, which only goes with another announcer.
fn alone<T>(section: &Section<'_>, key: &str, found: &Option<Found<T>>, announce: &str, notes: &mut Notes<'_>) {
    if let Some(found) = found.as_ref().filter(|_| section.has(key)) {
        let wrong = Wrong::new(
            format!("only with announce = \"{announce}\""),
            format!("write announce = \"{announce}\", or leave it out"),
        );
        notes.add(&found.span, found.path.clone(), wrong);
    }
}

fn socket(value: &DeValue<'_>) -> Result<String, Wrong> {
    let path = values::file_pattern(value, BIRD_SOCKET)?;
    if path.len() > SOCKET_BYTES_MAX {
        let right = format!("write a path of at most {SOCKET_BYTES_MAX} bytes, which is what a socket may have");
        return Err(Wrong::new(format!("the path has {} bytes", path.len()), right));
    }
    Ok(path)
}

/// Names of BIRD's protocols: letters, digits and a few signs; `*` at the end stands for any.
fn protocol(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = values::text(value, BIRD_PROTOCOL)?;
    let right = "write the name of BIRD's protocol, as \"rocinante\", or how several names begin, as \"rocinante*\"";
    let name = text.replace(LABEL, "a");
    let name = name.strip_suffix('*').unwrap_or(&name);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    if name.is_empty() || name.len() > PROTOCOL_BYTES_MAX || !name.chars().all(plain) {
        return Err(Wrong::new(format!("{} is no name of a protocol", shown_text(text)), right));
    }
    Ok(text.to_owned())
}

fn command(value: &DeValue<'_>) -> Result<Vec<String>, Wrong> {
    let right = "write a list of texts, the program first, as [\"/etc/rocinante/vip\"]";
    let DeValue::Array(entries) = value else {
        return Err(Wrong::new(format!("found {}", describe(value)), right));
    };
    if entries.is_empty() || entries.len() > ARGUMENTS_MAX {
        return Err(Wrong::new(format!("a list of {}", entries.len()), format!("{right}, at most {ARGUMENTS_MAX}")));
    }
    let texts: Option<Vec<String>> = entries
        .iter()
        .map(|entry| entry.get_ref().as_str().filter(|text| !text.contains('\0')).map(str::to_owned))
        .collect();
    let texts = texts.ok_or_else(|| Wrong::new("a list of other things than texts", right))?;
    match texts.first().is_some_and(|program| program.is_empty()) {
        true => Err(Wrong::new("the program's name is empty", right)),
        false => Ok(texts),
    }
}

/// The words for `announce`: whether it is BIRD.
const ANNOUNCERS: [(&str, bool); 2] = [("bird", true), ("command", false)];
/// Where Debian's BIRD has its control socket.
const BIRD_SOCKET: &str = "/run/bird/bird.ctl";
const BIRD_PROTOCOL: &str = "rocinante";
/// Longest path of a Unix socket, in bytes.
const SOCKET_BYTES_MAX: usize = 107;
/// Longest name of a protocol, in bytes.
const PROTOCOL_BYTES_MAX: usize = 64;
/// Most texts of a command.
const ARGUMENTS_MAX: usize = 64;
