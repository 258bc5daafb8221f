//! Networks of one's own: namespaces with nothing but a loopback interface in them.
//!
//! Thousands of short connections per second leave traces for minutes in tables that everything on a machine shares: source
//! ports, connections in TIME_WAIT, a firewall's connection tracking, which drops packets once it is full. In a namespace of
//! its own a run can neither be disturbed that way nor disturb others.

use std::ffi::{CStr, CString, c_int};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Moves the calling thread, and every thread and process it starts from now on, into a new network namespace. As an ordinary
/// user this takes a user namespace as well, which the system only gives to a process that has a single thread. False when
/// the system does not allow it: then everything stays where it was.
///
/// A namespace cannot be left again, and one whose loopback interface is down is worse than none. So a child goes first.
pub fn enter() -> io::Result<bool> {
    enter_as(Inside::Oneself)
}

/// Likewise, and programs that are started there can set up networks as well: where it takes a user namespace, this process is
/// root in it.
pub fn enter_to_build() -> io::Result<bool> {
    enter_as(Inside::Root)
}

fn enter_as(inside: Inside) -> io::Result<bool> {
    for flags in [libc::CLONE_NEWNET, libc::CLONE_NEWUSER | libc::CLONE_NEWNET] {
        let way = Way::new(flags, inside);
        // The child has a single thread. Where that makes the difference, this process is refused at the first step.
        if way.works_in_a_child()? && way.begin().is_ok() {
            return way.finish().map(|()| true);
        }
    }
    Ok(false)
}

/// A network namespace that has no name: it is there as long as this, or a process in it, and no longer.
#[derive(Debug)]
pub struct Namespace(OwnedFd);

impl Namespace {
    /// The one in which the calling thread is.
    pub fn current() -> io::Result<Namespace> {
        // SAFETY: the path is a C string that outlives the call.
        let opened = unsafe { libc::open(c"/proc/thread-self/ns/net".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        open(opened).map(Namespace)
    }

    /// A new one, in which nobody is yet. It takes the privileges that [`enter`] gives.
    pub fn create() -> io::Result<Namespace> {
        let make = || {
            // SAFETY: takes no pointers; this thread alone moves, and ends.
            done(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            raise_loopback()?;
            Namespace::current()
        };
        std::thread::spawn(make).join().unwrap_or_else(|_| Err(io::Error::other("the thread of a namespace panicked")))
    }

    /// The one that has a name in the file system.
    pub fn named(path: &Path) -> io::Result<Namespace> {
        File::open(path).map(|file| Namespace(file.into()))
    }

    /// Runs `deed` on a thread that is in it.
    pub fn inside<T: Send>(&self, deed: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let moved = || {
            self.go().map_err(Error::io("moving to a network namespace"))?;
            deed()
        };
        let ended = std::thread::scope(|scope| scope.spawn(moved).join());
        ended.unwrap_or_else(|_| Err(Error::Fleet("the thread in a namespace panicked".to_owned())))
    }

    /// Moves the calling thread, and what it starts from now on.
    pub fn go(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open; what changes concerns the names this thread sees, not its memory.
        done(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) })
    }

    /// Has a command run in it; the command must not outlive this.
    pub fn house(&self, command: &mut Command) {
        let descriptor = self.0.as_raw_fd();
        // SAFETY: between fork and exec only one system call is made, which is safe there.
        unsafe {
            command.pre_exec(move || done(libc::setns(descriptor, libc::CLONE_NEWNET)));
        }
    }

    /// A path by which programs find it while this process has it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Whether the kernel or the system says that it has no bridges, no pairs of interfaces or no nft, or not for this user. All
/// else that `ip` and `nft` may say at the first set-up is a failure.
#[must_use]
pub fn is_lacking(said: &str) -> bool {
    LACKING.iter().any(|words| said.contains(words))
}

/// Runs a program in a namespace with this input; without input there is nothing to run.
pub fn feed(place: &Namespace, program: &Path, arguments: &[&str], input: &str) -> Result<()> {
    if input.is_empty() {
        return Ok(());
    }
    let failed = || Error::io(format!("running {}", program.display()));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    place.house(&mut command);
    let mut child = command.spawn().map_err(failed())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(failed())?;
    }
    let output = child.wait_with_output().map_err(failed())?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(Error::Fleet(format!("{}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim())))
        }
    }
}

/// Who one is in a user namespace.
#[derive(Clone, Copy, Debug)]
enum Inside {
    Oneself,
    Root,
}

/// One way into a namespace. Everything is prepared: on the way there are system calls only, no allocation.
struct Way {
    flags: c_int,
    uid_map: CString,
    gid_map: CString,
}

impl Way {
    fn new(flags: c_int, inside: Inside) -> Way {
        // SAFETY: both only read the ids of this process.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        let map = |id| {
            let shown = match inside {
                Inside::Oneself => id,
                Inside::Root => 0,
            };
            CString::new(format!("{shown} {id} 1")).unwrap_or_default()
        };
        Way { flags, uid_map: map(user), gid_map: map(group) }
    }

    /// Whether a child can go all the way.
    fn works_in_a_child(&self) -> io::Result<bool> {
        // SAFETY: the child makes system calls only, which is safe whatever other threads were doing, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let arrived = self.begin().and_then(|()| self.finish()).is_ok();
            // SAFETY: ends the child without running anything of this process.
            unsafe { libc::_exit(c_int::from(!arrived)) }
        }
        if child < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut status = 0;
        // SAFETY: the status outlives the call.
        while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
    }

    /// The step that changes nothing when it fails.
    fn begin(&self) -> io::Result<()> {
        // SAFETY: takes no pointers; what it changes concerns the names this thread sees, not its memory.
        done(unsafe { libc::unshare(self.flags) })
    }

    fn finish(&self) -> io::Result<()> {
        if self.flags & libc::CLONE_NEWUSER != 0 {
            write(c"/proc/self/setgroups", c"deny")?;
            write(c"/proc/self/uid_map", &self.uid_map)?;
            write(c"/proc/self/gid_map", &self.gid_map)?;
        }
        raise_loopback()
    }
}

/// A new namespace has its loopback interface down.
fn raise_loopback() -> io::Result<()> {
    // SAFETY: takes no pointers.
    let socket = open(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: an all-zero `ifreq` is valid: bytes of a name and a union of plain numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the descriptor is open, and the request is an `ifreq` that outlives the call.
    done(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

/// Writes a file of the kernel's, which takes the text whole or not at all.
fn write(path: &CStr, text: &CStr) -> io::Result<()> {
    // SAFETY: the path is a C string that outlives the call.
    let file = open(unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) })?;
    let bytes = text.to_bytes();
    // SAFETY: the descriptor is open, and so many bytes are there.
    done(unsafe { libc::write(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) } as c_int)
}

fn open(descriptor: c_int) -> io::Result<OwnedFd> {
    done(descriptor)?;
    // SAFETY: it was just opened, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn done(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What `ip` and `nft` say of a kernel without bridges, veth, nft or its family of bridges, and of a user who may not.
const LACKING: [&str; 7] = [
    "Operation not permitted",
    "Permission denied",
    "Operation not supported",
    "Protocol not supported",
    "not supported by protocol",
    "Unknown device type",
    "Could not process rule: No such file or directory",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_system_lacks_excuses_a_run() {
        for said in [
            "/usr/sbin/ip: RTNETLINK answers: Operation not supported\nCommand failed -:1",
            "/usr/sbin/ip: Error: Unknown device type.\nCommand failed -:1",
            "/usr/sbin/nft: netlink: Error: cache initialization failed: Protocol not supported",
            "/usr/sbin/nft: /dev/stdin:1:1-9: Error: Could not process rule: No such file or directory",
        ] {
            assert!(is_lacking(said), "{said}");
        }
        for said in [
            "/usr/sbin/ip: RTNETLINK answers: File exists\nCommand failed -:3",
            "/usr/sbin/ip: Cannot find device \"eth0\"\nCommand failed -:1",
            "/usr/sbin/nft: /dev/stdin:3:5-9: Error: syntax error, unexpected string",
        ] {
            assert!(!is_lacking(said), "{said}");
        }
    }
}
