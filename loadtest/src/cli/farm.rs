//! `loadtest farm`: backends to play with.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use loadtest::error::{Error, Result};
use loadtest::farm::{Backend, Cut, Farm};
use tokio::sync::mpsc;

use super::FarmArguments;

/// Runs until it is interrupted.
pub async fn run(arguments: FarmArguments) -> Result<ExitCode> {
    let named = u16::try_from(arguments.names.len()).map_err(|_| Error::Usage("too many names".to_owned()))?;
    let count = arguments.count.unwrap_or(if named == 0 { DEFAULT_COUNT } else { named });
    let farm = Arc::new(Farm::new(None)?);
    for index in 0..count {
        let name =
            arguments.names.get(usize::from(index)).cloned().unwrap_or_else(|| format!("s{}", index.saturating_add(1)));
        let backend = farm.add(&name, at(arguments.listen, arguments.listen.port(), index)?).await?;
        println!("{name} listens on {}", backend.address);
        if let Some(base) = arguments.http_port_base {
            let backend = farm.add(&name, at(arguments.listen, base, index)?).await?;
            println!("{name} listens on {}", backend.address);
        }
    }
    let mut lines = lines_of_standard_input();
    while let Some(line) = lines.recv().await {
        match obey(&farm, &line).await {
            Ok(said) => println!("{said}"),
            Err(error) => eprintln!("{error}"),
        }
    }
    // Without a standard input to listen to it serves on.
    std::future::pending().await
}

fn at(listen: SocketAddr, base: u16, index: u16) -> Result<SocketAddr> {
    let port = base.checked_add(index).ok_or_else(|| Error::Usage("the ports do not fit below 65536".to_owned()))?;
    Ok((listen.ip(), port).into())
}

async fn obey(farm: &Farm, line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["list"] => {
            let mut lines = Vec::new();
            for backend in farm.backends() {
                let state = if backend.is_running().await { "runs" } else { "stopped" };
                lines.push(format!("{} {} {state}", backend.name, backend.address));
            }
            return Ok(lines.join("\n"));
        }
        ["stop", name] => {
            for backend in named(farm, name)? {
                backend.stop().await;
            }
        }
        ["start", name] => {
            for backend in named(farm, name)? {
                backend.start().await?;
            }
        }
        ["blackhole", name] => {
            for backend in named(farm, name)? {
                backend.blackhole().await?;
            }
        }
        ["heal", name] => {
            for backend in named(farm, name)? {
                backend.heal().await?;
            }
        }
        ["cut", name, source] => {
            let source = source.parse().map_err(|error| Error::Usage(format!("{source} is no address: {error}")))?;
            for backend in named(farm, name)? {
                backend.cut(source, Cut::Drop).await?;
            }
        }
        _ => {
            return Err(Error::Usage(
                "say: list, stop NAME, start NAME, blackhole NAME, heal NAME or cut NAME SOURCE".to_owned(),
            ));
        }
    }
    Ok("done".to_owned())
}

fn named(farm: &Farm, name: &str) -> Result<Vec<Arc<Backend>>> {
    let found: Vec<_> = farm.backends().into_iter().filter(|backend| backend.name == name).collect();
    if found.is_empty() { Err(Error::Usage(format!("no backend is called {name}"))) } else { Ok(found) }
}

/// Standard input on a thread of its own, because reading it cannot be interrupted.
fn lines_of_standard_input() -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel(LINES_AHEAD);
    // In the background of a terminal a read stops the process, unless it does not care: then the read fails.
    // SAFETY: no handler is installed, and nothing is passed but two numbers.
    unsafe { libc::signal(libc::SIGTTIN, libc::SIG_IGN) };
    std::thread::spawn(move || {
        loop {
            let mut line = String::new();
            match std::io::stdin().read_line(&mut line) {
                Ok(0) => break,
                Ok(_) if line.trim().is_empty() => {}
                Ok(_) => {
                    if send.blocking_send(line).is_err() {
                        break;
                    }
                }
                // The terminal is somebody else's, until this process is brought to the foreground.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => std::thread::sleep(LOOK_AGAIN),
                Err(_) => break,
            }
        }
    });
    receive
}

const DEFAULT_COUNT: u16 = 4;
const LINES_AHEAD: usize = 16;
/// How often a process in the background looks whether it may read.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
