//! What BIRD says on its control socket, line by line, and what that means for us.
//!
//! ```text
//! 0001 BIRD 2.0.12 ready.            the greeting: a code, a space, the last line
//! 0011-rocinante4: enabled           a code, a hyphen: more lines follow
//!  rocinante6: enabled               a space: the code of the line before
//! 0000
//! ```

/// One reply, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Reply {
    lines: Vec<(u16, String)>,
}

/// What a reply to `enable` or `disable` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was so before.
    Already,
    /// It is so now.
    Changed,
}

impl Reply {
    /// Takes a line; whether it was the last one.
    pub(super) fn take(&mut self, line: &str) -> Result<bool, String> {
        if line.starts_with('+') {
            // Said to all who asked for BIRD's log.
            return Ok(false);
        }
        if self.lines.len() >= LINES_MAX {
            return Err(format!(
                "BIRD's reply has more than {LINES_MAX} lines: are there so many protocols of that name?"
            ));
        }
        let stranger = || format!("{line:?} is no reply of BIRD: is vip.bird_socket its control socket?");
        let (code, last, text) = match (line.strip_prefix(' '), self.lines.last()) {
            (Some(text), Some((code, _))) => (*code, false, text),
            (Some(_), None) => return Err(stranger()),
            (None, _) => {
                let digits = line.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
                let code = digits.and_then(|digits| digits.parse().ok()).ok_or_else(stranger)?;
                let rest = line.get(4..).unwrap_or_default();
                match (rest.strip_prefix(' '), rest.strip_prefix('-')) {
                    (Some(text), _) => (code, true, text),
                    (None, Some(text)) => (code, false, text),
                    (None, None) => return Err(stranger()),
                }
            }
        };
        self.lines.push((code, text.to_owned()));
        Ok(last)
    }

    /// Whether this is how BIRD greets.
    pub(super) fn is_greeting(&self) -> bool {
        matches!(self.lines.as_slice(), [(READY, _)])
    }

    /// What the whole reply to `enable` (`up`) or `disable` of `protocol` says.
    pub(super) fn judge(&self, up: bool, protocol: &str) -> Result<Verdict, String> {
        if let Some((code, text)) = self.lines.iter().find(|(code, _)| *code >= ERRORS_FROM) {
            return Err(match *code {
                NO_PROTOCOL => format!(
                    "BIRD has no protocol {protocol}: add it to bird.conf (docs/operations.md has it), or name another in vip.bird_protocol"
                ),
                DENIED => format!(
                    "BIRD takes no changes on this socket ({text}): name its unrestricted one in vip.bird_socket"
                ),
                code => format!("BIRD refused {code:04}: {text}"),
            });
        }
        let (changed, already) = if up { (ENABLED, ALREADY_ENABLED) } else { (DISABLED, ALREADY_DISABLED) };
        let has = |wanted: u16| self.lines.iter().any(|(code, _)| *code == wanted);
        match (has(changed), has(already)) {
            (true, _) => Ok(Verdict::Changed),
            (false, true) => Ok(Verdict::Already),
            (false, false) => {
                let said = self.lines.first().map(|(code, text)| format!("{code:04} {text}")).unwrap_or_default();
                Err(format!("BIRD answered {said:?}, which says nothing of {protocol}"))
            }
        }
    }
}

/// Most lines of a reply.
const LINES_MAX: usize = 64;

/// BIRD's codes, as of 2.0.12.
const READY: u16 = 1;
const ALREADY_DISABLED: u16 = 8;
const DISABLED: u16 = 9;
const ALREADY_ENABLED: u16 = 10;
const ENABLED: u16 = 11;
const ERRORS_FROM: u16 = 8000;
const NO_PROTOCOL: u16 = 8003;
const DENIED: u16 = 8007;

#[cfg(test)]
mod tests {
    use super::*;

    /// The reply of these lines, the last of which ends it.
    fn reply(text: &str) -> Reply {
        let mut reply = Reply::default();
        let count = text.lines().count();
        for (number, line) in (1..).zip(text.lines()) {
            assert_eq!(reply.take(line), Ok(number == count), "{line}");
        }
        reply
    }

    /// As BIRD 2.0.12 said them.
    #[test]
    fn replies_of_a_real_bird() {
        assert!(reply("0001 BIRD 2.0.12 ready.").is_greeting());
        assert!(!reply("0000 ").is_greeting());
        for (up, text, verdict) in [
            (true, "0011-rocinante: enabled\n0000 ", Verdict::Changed),
            (true, "0010-rocinante: already enabled\n0000 ", Verdict::Already),
            (false, "0009-rocinante: disabled\n0000 ", Verdict::Changed),
            (false, "0008-rocinante: already disabled\n0000 ", Verdict::Already),
            (true, "0011-rocinante: enabled\n rocinante6: enabled\n0000 ", Verdict::Changed),
            (true, "0010-rocinante: already enabled\n0011-rocinante6: enabled\n0000 ", Verdict::Changed),
            (false, "0008-rocinante: already disabled\n rocinante6: already disabled\n0000 ", Verdict::Already),
        ] {
            assert_eq!(reply(text).judge(up, "rocinante*"), Ok(verdict), "{text}");
        }
        for (text, problem) in [
            ("8003 No protocols match", "BIRD has no protocol rocinante: "),
            ("8007 Access denied", "BIRD takes no changes on this socket (Access denied): "),
            ("9001 syntax error, unexpected GARBAGE", "BIRD refused 9001: syntax error, unexpected GARBAGE"),
            ("0013 Daemon is up and running", "BIRD answered \"0013 Daemon is up and running\", which says nothing"),
            ("0009-rocinante: disabled\n0000 ", "BIRD answered \"0009 rocinante: disabled\", which says nothing"),
        ] {
            let told = reply(text).judge(true, "rocinante").unwrap_err();
            assert!(told.starts_with(problem), "{told}");
        }
    }

    #[test]
    fn what_bird_logs_meanwhile_is_no_reply() {
        let text = "+<INFO> Reconfigured\n0011-rocinante: enabled\n+<INFO> more\n0000 ";
        assert_eq!(reply(text).judge(true, "rocinante"), Ok(Verdict::Changed));
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for line in ["", " first", "x", "001", "0001", "0001:", "é001 x", "00é1 x", "+", "HTTP/1.1 400 Bad Request"] {
            let taken = Reply::default().take(line);
            match line {
                "+" => assert_eq!(taken, Ok(false)),
                _ => assert!(taken.unwrap_err().contains("is no reply of BIRD"), "{line}"),
            }
        }
        let mut endless = Reply::default();
        endless.take("1007-Table master4:").unwrap();
        let refused = (0..LINES_MAX).find_map(|_| endless.take(" more").err());
        assert!(refused.unwrap().contains("more than 64 lines"));
    }
}
