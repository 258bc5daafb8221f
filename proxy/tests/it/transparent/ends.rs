//! Servers that say whose connection it is, and clients of many addresses.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use socket2::{Domain, SockRef, Socket, Type};

use super::net::{Net, Space};
use crate::process::kit::DEADLINE;

/// What a server does with a connection.
#[derive(Clone, Copy)]
pub enum Manner {
    /// Says its name and its client's address in a line, then echoes.
    Tcp,
    /// Says so in the answer to each request.
    Http,
}

/// A server on a thread of its own; it takes nobody any more once this is dropped.
pub struct Server(TcpListener);

impl Server {
    pub fn start(space: &Space, name: &'static str, address: SocketAddr, manner: Manner) -> Self {
        let listener = space.inside(|| TcpListener::bind(address).unwrap());
        let accepting = listener.try_clone().unwrap();
        thread::spawn(move || {
            while let Ok((stream, client)) = accepting.accept() {
                thread::spawn(move || match manner {
                    Manner::Tcp => echo(stream, &format!("{name} {client}")),
                    Manner::Http => answer(stream, &format!("{name} {client}")),
                });
            }
        });
        Self(listener)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever waits for the next connection is told that there is none; more is not wanted of it.
        drop(SockRef::from(&self.0).shutdown(Shutdown::Both));
    }
}

fn echo(mut stream: TcpStream, said: &str) {
    // Whoever is gone again needs nothing.
    if stream.write_all(format!("{said}\n").as_bytes()).is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    while let Ok(count) = stream.read(&mut buffer)
        && count > 0
        && stream.write_all(&buffer[..count]).is_ok()
    {}
}

fn answer(stream: TcpStream, said: &str) {
    let mut lines = BufReader::new(&stream).lines();
    while let Some(Ok(line)) = lines.next() {
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}\n", said.len() + 1);
        if line.is_empty() && (&stream).write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// What a server said of a connection: its name, and the client it saw.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub server: String,
    pub client: SocketAddr,
}

/// A client's connection to a pool.
pub struct Client {
    pub own: SocketAddr,
    lines: BufReader<TcpStream>,
}

impl Client {
    /// From a client's address to a pool, by an instance.
    pub fn connect(net: &Net, from: IpAddr, instance: u8, to: SocketAddr) -> std::io::Result<Self> {
        net.clients.inside(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.set_mark(u32::from(instance) + 1)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket.connect_timeout(&to.into(), DEADLINE)?;
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(DEADLINE))?;
            Ok(Self { own: stream.local_addr()?, lines: BufReader::new(stream) })
        })
    }

    /// The next line.
    pub fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        match self.lines.read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    pub fn send(&mut self, text: &str) -> std::io::Result<()> {
        self.lines.get_mut().write_all(text.as_bytes())
    }

    /// What the server of a TCP pool says first.
    pub fn seen(&mut self) -> std::io::Result<Seen> {
        let line = self.line()?;
        let (server, client) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        Ok(Seen { server: server.to_owned(), client: client.parse().unwrap_or_else(|_| panic!("{line}")) })
    }

    /// What the server of an HTTP pool answers.
    pub fn ask(&mut self) -> Seen {
        self.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let status = self.line().unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK");
        while !self.line().unwrap().is_empty() {}
        self.seen().unwrap()
    }
}
