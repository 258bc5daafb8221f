//! The threads that an instance cannot go on without.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{self, JoinHandle},
};

/// Starts a thread whose panic ends the process at once: what it had in memory is not to be trusted then, and without it
/// nothing would be stored or answered any more, in silence.
pub fn start(name: &'static str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            tracing::error!("the {name} thread panicked: stopping at once");
            std::process::abort();
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::Command};

    /// Set for the process that is to end.
    const DOOMED: &str = "ROCINANTE_TEST_DOOMED";

    #[test]
    fn a_panic_ends_the_process() {
        if std::env::var_os(DOOMED).is_some() {
            let joined = super::start("doomed", || panic!("as the test wants")).unwrap().join();
            panic!("it went on: {joined:?}");
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "node::threads::tests::a_panic_ends_the_process", "--nocapture"]);
        let output = child.env(DOOMED, "").output().unwrap();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    }
}
