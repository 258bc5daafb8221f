//! BIRD's control socket: one connection that is kept, one question at a time, each answered within a time.

use std::{io, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::{
    lines::{Lines, TooLong},
    reply::{Reply, Verdict},
    switch::{Outcome, Step},
};

/// The protocols of a BIRD that announce the VIPs while they are enabled.
pub(super) struct Bird {
    socket: PathBuf,
    /// Their name, or what their names match.
    protocol: String,
    connection: Option<Connection>,
}

struct Connection {
    stream: UnixStream,
    lines: Lines,
}

impl Bird {
    pub(super) fn new(socket: PathBuf, protocol: String) -> Self {
        Self { socket, protocol, connection: None }
    }

    /// Enables or disables them.
    pub(super) async fn carry_out(&mut self, step: &Step) -> Outcome {
        let up = matches!(step, Step::Announce(_));
        // It is put back if all went well: what comes later on a connection that failed belongs to nothing.
        let outcome = match timeout(ANSWER, self.ask(up)).await {
            Ok(Ok((connection, reply))) => {
                self.connection = Some(connection);
                reply.judge(up, &self.protocol).map_err(Outcome::Failed)
            }
            Ok(Err(failure)) => Err(failure),
            Err(_) => {
                let socket = self.socket.display();
                Err(Outcome::Failed(format!("BIRD at {socket} did not answer within {ANSWER:?}: does it hang?")))
            }
        };
        match outcome {
            Ok(Verdict::Already) => Outcome::Already,
            Ok(Verdict::Changed) => Outcome::Changed,
            Err(failure) => failure,
        }
    }

    /// Ends when the connection did, or said what nobody asked for; never without a connection.
    pub(super) async fn lost(&mut self) {
        let Some(connection) = &self.connection else { return std::future::pending().await };
        // An error is an end, too.
        while connection.stream.readable().await.is_ok() {
            match connection.stream.try_read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => break,
            }
        }
        self.connection = None;
    }

    async fn ask(&mut self, up: bool) -> Result<(Connection, Reply), Outcome> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        // In quotes it is a pattern: then a name that BIRD does not know is no syntax error.
        let question = format!("{} \"{}\"\n", if up { "enable" } else { "disable" }, self.protocol);
        connection.stream.write_all(question.as_bytes()).await.map_err(|error| self.broken(&error))?;
        let reply = self.reply(&mut connection).await?;
        Ok((connection, reply))
    }

    async fn connect(&self) -> Result<Connection, Outcome> {
        let socket = self.socket.display();
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Outcome::Absent(format!("there is no {socket}: does BIRD run, and is vip.bird_socket its socket?"))
            }
            io::ErrorKind::ConnectionRefused => {
                Outcome::Absent(format!("BIRD does not run: nobody listens on {socket}"))
            }
            io::ErrorKind::PermissionDenied => {
                Outcome::Failed(format!("no permission for {socket}: put this user into BIRD's group"))
            }
            _ => Outcome::Failed(format!("cannot connect to {socket}: {error}")),
        })?;
        let mut connection = Connection { stream, lines: Lines::new(LINE_BYTES_MAX) };
        match self.reply(&mut connection).await?.is_greeting() {
            true => Ok(connection),
            false => {
                Err(Outcome::Failed(format!("{socket} does not greet as BIRD does: name another in vip.bird_socket")))
            }
        }
    }

    async fn reply(&self, connection: &mut Connection) -> Result<Reply, Outcome> {
        let mut reply = Reply::default();
        let mut buffer = [0; LINE_BYTES_MAX];
        loop {
            match connection.lines.next() {
                Ok(Some(line)) => {
                    if reply.take(&line).map_err(Outcome::Failed)? {
                        return Ok(reply);
                    }
                }
                Ok(None) => match connection.stream.read(&mut buffer).await {
                    Ok(0) => return Err(self.broken(&io::ErrorKind::UnexpectedEof.into())),
                    Ok(count) => connection.lines.push(buffer.get(..count).unwrap_or_default()),
                    Err(error) => return Err(self.broken(&error)),
                },
                Err(TooLong) => {
                    let socket = self.socket.display();
                    return Err(Outcome::Failed(format!("{socket} sends endless lines: is it BIRD's control socket?")));
                }
            }
        }
    }

    fn broken(&self, error: &io::Error) -> Outcome {
        Outcome::Failed(format!("BIRD at {} broke off: {error}", self.socket.display()))
    }
}

/// How long BIRD may take for an answer, connecting included.
const ANSWER: Duration = Duration::from_secs(1);
/// Longest line of BIRD, in bytes.
const LINE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests;
