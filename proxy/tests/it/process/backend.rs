//! A server that says its name: over TCP at once, then it echoes; over HTTP in every answer.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use socket2::{Domain, Socket, Type};

use super::kit::DEADLINE;

/// What it does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Says its name and a line feed, then echoes.
    Tcp,
    /// Says its name, then keeps the connection and does nothing.
    Keep,
    /// Answers HTTP requests by its name.
    Http,
    /// Sends zeros for as long as they are taken.
    Flood,
}

/// A server on a thread of its own; its connections end with it.
pub struct Backend {
    pub name: String,
    pub address: SocketAddr,
    stopped: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Backend {
    pub fn start(name: &str, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(Vec::new()));
        let backend = Self { name: name.to_owned(), address, stopped: stopped.clone(), open: open.clone() };
        let name = name.to_owned();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A client that is gone again.
                let Ok(stream) = stream else { continue };
                if manner == Manner::Keep {
                    // Health checks close at once; who stays is kept.
                    if (&stream).write_all(format!("{name}\n").as_bytes()).is_ok() {
                        open.lock().unwrap().push(stream);
                    }
                    continue;
                }
                if let Ok(copy) = stream.try_clone() {
                    open.lock().unwrap().push(copy);
                }
                let name = name.clone();
                thread::spawn(move || match manner {
                    Manner::Tcp | Manner::Keep => echo(stream, &name),
                    Manner::Http => answer(stream, &name),
                    Manner::Flood => flood(stream),
                });
            }
        });
        backend
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread up; nothing else is wanted of it.
        drop(TcpStream::connect(self.address));
        for stream in self.open.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

fn echo(mut stream: TcpStream, name: &str) {
    if stream.write_all(format!("{name}\n").as_bytes()).is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer)
        && count > 0
        && stream.write_all(&buffer[..count]).is_ok()
    {}
    drop(stream.shutdown(Shutdown::Both));
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer)
        && count > 0
    {
        seen.extend_from_slice(&buffer[..count]);
        while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            seen.drain(..end + 4);
            let length = name.len();
            let said = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}");
            if stream.write_all(said.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn flood(mut stream: TcpStream) {
    while stream.write_all(&[0; 65536]).is_ok() {}
}

/// A connection from a client of that number: a loopback address of its own.
pub fn connect(client: u32, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if to.is_ipv4() {
        socket.bind(&SocketAddr::new(address_of(client), 0).into())?;
    }
    socket.connect_timeout(&to.into(), DEADLINE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Where the client of that number comes from.
pub fn address_of(client: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, 1)) + client).into()
}

/// Which server a TCP client of that number gets; `None` when it is refused.
pub fn ask(client: u32, to: SocketAddr) -> Option<String> {
    let mut stream = connect(client, to).ok()?;
    name_of(&mut stream)
}

/// The name with which a server begins.
pub fn name_of(stream: &mut TcpStream) -> Option<String> {
    let mut name = String::new();
    let mut byte = [0];
    loop {
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        match byte[0] {
            b'\n' => return Some(name),
            letter => name.push(char::from(letter)),
        }
    }
}
