//! BIRDs: one that a test plays, with all its moods, and the real one where it is installed.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::kit::{Process, wait_for, wait_until};

/// What one [`Bird`] knows.
#[derive(Default)]
struct State {
    /// Whether its protocol is enabled.
    up: Mutex<bool>,
    /// What that became, each time.
    changes: Mutex<Vec<bool>>,
    connections: Mutex<Vec<UnixStream>>,
    /// It takes questions and does not answer.
    hangs: AtomicBool,
    stopped: AtomicBool,
}

impl State {
    fn set(&self, wanted: bool) -> bool {
        let mut up = self.up.lock().unwrap();
        let changed = *up != wanted;
        if changed {
            *up = wanted;
            self.changes.lock().unwrap().push(wanted);
        }
        changed
    }

    /// The answer to a line.
    fn answer(&self, line: &str) -> String {
        let (word, name) = line.split_once(' ').unwrap_or((line, ""));
        if name != "\"rocinante\"" {
            return "8003 No protocols match\n".to_owned();
        }
        let (code, text) = match (word, word == "enable" || word == "disable") {
            ("enable", _) if self.set(true) => ("0011", "enabled"),
            ("enable", _) => ("0010", "already enabled"),
            ("disable", _) if self.set(false) => ("0009", "disabled"),
            ("disable", _) => ("0008", "already disabled"),
            _ => return "9001 syntax error\n".to_owned(),
        };
        format!("{code}-rocinante: {text}\n0000 \n")
    }

    fn serve(&self, stream: UnixStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut say = "0001 BIRD 2.0.12 ready.\n".to_owned();
        while !self.hangs.load(Ordering::Relaxed) && (&stream).write_all(say.as_bytes()).is_ok() {
            let Some(Ok(line)) = lines.next() else { return };
            if self.hangs.load(Ordering::Relaxed) {
                break;
            }
            say = self.answer(&line);
        }
        // Whoever asked waits until it goes by itself.
        lines.find(Result::is_err);
    }
}

/// A BIRD with one protocol, `rocinante`, that is disabled when it starts.
pub struct Bird {
    path: PathBuf,
    state: Arc<State>,
}

impl Bird {
    pub fn start(path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A client that is gone again.
                let Ok(stream) = stream else { continue };
                shared.connections.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { path: path.to_owned(), state }
    }

    pub fn is_up(&self) -> bool {
        *self.state.up.lock().unwrap()
    }

    /// How often it was told something new.
    pub fn changes(&self) -> usize {
        self.state.changes.lock().unwrap().len()
    }

    /// Waits until its protocol is enabled or disabled.
    pub fn becomes(&self, up: bool) {
        wait_until(if up { "BIRD announces" } else { "BIRD withdraws" }, || self.is_up() == up);
    }

    /// It reads its configuration again, in which the protocol is disabled.
    pub fn reload(&self) {
        self.state.set(false);
    }

    /// From now on it does not answer, until it does again to new connections.
    pub fn hang(&self, hangs: bool) {
        self.state.hangs.store(hangs, Ordering::Relaxed);
        if !hangs {
            self.hang_up();
        }
    }

    fn hang_up(&self) {
        for stream in self.state.connections.lock().unwrap().drain(..) {
            // Its other end may be gone.
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread up; nothing else is wanted of it.
        drop(UnixStream::connect(&self.path));
        self.hang_up();
        drop(fs::remove_file(&self.path));
    }
}

/// The real BIRD, as docs/operations.md configures it, without a router.
pub struct RealBird {
    pub process: Process,
    socket: PathBuf,
}

impl RealBird {
    /// `None` where it is not installed, which it says past the test's captured output.
    pub fn start(directory: &Path) -> Option<Self> {
        let program = ["/usr/sbin/bird", "/usr/local/sbin/bird"].into_iter().find(|path| Path::new(path).exists());
        let Some(program) = program else {
            let line = "SKIPPED, NOT TESTED: there is no BIRD here (apt-get install bird2)\n";
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        };
        let (config, socket) = (directory.join("bird.conf"), directory.join("bird.ctl"));
        let text = format!(
            "log stderr all;\nrouter id 10.0.0.1;\nprotocol device {{ }}\n\
             protocol static rocinante {{ disabled; ipv4; route {ROUTE}/32 unreachable; }}\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-f").arg("-c").arg(config).arg("-s").arg(&socket).arg("-P").arg(directory.join("bird.pid"));
        let process = Process::start(command, &directory.join("bird.log"));
        let bird = Self { process, socket };
        wait_for("BIRD answers", || bird.ask("show status"));
        Some(bird)
    }

    /// Whether it has the route of the VIP.
    pub fn announces(&self) -> bool {
        self.ask("show route protocol rocinante").is_some_and(|routes| routes.contains(ROUTE))
    }

    pub fn ask(&self, question: &str) -> Option<String> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.write_all(format!("{question}\n").as_bytes()).ok()?;
        let mut said = String::new();
        for line in BufReader::new(stream).lines().skip(1) {
            let line = line.ok()?;
            said.push_str(&line);
            said.push('\n');
            if line.bytes().take(4).all(|byte| byte.is_ascii_digit()) && line.as_bytes().get(4) == Some(&b' ') {
                return Some(said);
            }
        }
        None
    }
}

/// What it announces. It takes none of the loopback addresses that the tests have for VIPs.
const ROUTE: &str = "192.0.2.7";

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}
