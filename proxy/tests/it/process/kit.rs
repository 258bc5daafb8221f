//! Waiting for a condition, a place for files, a process, the smallest HTTP client.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{Read, Write},
    marker::PhantomData,
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// The program under test.
pub const ROCINANTE: &str = env!("CARGO_BIN_EXE_rocinante");

/// How long anything may take before a test fails. Generous: the machine may be busy.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `look` finds something; panics with what was waited for.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        sleep(POLL); // between two looks
    }
}

/// Waits until `look` is true.
pub fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    wait_for(what, || look().then_some(()));
}

/// So many tests have fleets at once.
const TESTS_MAX: u32 = 2;
static TESTS: Mutex<u32> = Mutex::new(0);
static FEWER: Condvar = Condvar::new();

thread_local! {
    /// The fleets of the test that this thread runs.
    static FLEETS: Cell<u32> = const { Cell::new(0) };
}

/// The right to run a fleet. A test waits for its first one alone: two that waited for a second while they hold one would
/// wait for ever. It stays on the thread of its test.
pub struct Permit(PhantomData<*const ()>);

impl Permit {
    pub fn take() -> Self {
        if FLEETS.get() == 0 {
            let tests = TESTS.lock().unwrap_or_else(PoisonError::into_inner);
            let tests = FEWER.wait_while(tests, |tests| *tests >= TESTS_MAX);
            *tests.unwrap_or_else(PoisonError::into_inner) += 1;
        }
        FLEETS.set(FLEETS.get() + 1);
        Self(PhantomData)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        FLEETS.set(FLEETS.get() - 1);
        if FLEETS.get() == 0 {
            *TESTS.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
            FEWER.notify_one();
        }
    }
}

/// A directory that goes away.
pub struct Directory(PathBuf);

static DIRECTORIES: AtomicU32 = AtomicU32::new(0);

impl Directory {
    pub fn new() -> Self {
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rocinante-process-{}-{number}", std::process::id()));
        // A run that was killed may have left one, and its number come again.
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing can be done about it here, and a second panic would hide the first.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A child that is killed when this is dropped, and by the kernel should the test die; what it says goes to a file.
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Where its part of the file begins: an instance that is started again goes on in the same file.
    from: u64,
}

impl Process {
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let from = file.metadata().unwrap().len();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        // SAFETY: between fork and exec only one system call is made, which is safe there.
        unsafe {
            command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned(), from }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it said so far.
    pub fn said(&self) -> String {
        let bytes = fs::read(&self.log).unwrap();
        String::from_utf8_lossy(&bytes[self.from as usize..]).into_owned()
    }

    /// Waits until it has said all of `words` in one line; gives the line.
    pub fn says(&self, words: &[&str]) -> String {
        let start = Instant::now();
        loop {
            let said = self.said();
            if let Some(line) = said.lines().find(|line| words.iter().all(|word| line.contains(word))) {
                return line.to_owned();
            }
            assert!(start.elapsed() < DEADLINE, "it never said {words:?}, but:\n{said}");
            sleep(POLL); // between two looks
        }
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "it does not end; it said:\n{}", self.said());
            sleep(POLL); // between two looks
        }
    }

    /// kill -9, and gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a command that ended left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs `rocinante` to its end, in `directory`; panics when it does not end.
pub fn rocinante(directory: &Path, arguments: &[&str]) -> Ran {
    let mut command = Command::new(ROCINANTE);
    command.current_dir(directory).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: between fork and exec only one system call is made, which is safe there.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
    }
    let child = command.spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (done, ended) = mpsc::channel();
    let reader = thread::spawn(move || {
        let output = child.wait_with_output();
        // Nobody waits any more where it took too long.
        done.send(()).ok();
        output
    });
    if ended.recv_timeout(DEADLINE).is_err() {
        kill_process(pid, Signal::KILL).unwrap();
        panic!("rocinante {arguments:?} does not end: {:?}", reader.join());
    }
    let Output { status, stdout, stderr } = reader.join().unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
}

/// Asks `METHOD /path` and reads the answer: status and body. `None`: nobody answers.
pub fn http(address: SocketAddr, what: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let length = body.len();
    let request =
        format!("{what} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

const POLL: Duration = Duration::from_millis(10);
