//! A proxy between the program and its upstream: it records what it is asked for, and leads to one address,
//! whatever host is asked for. Also used by unit tests, so it names nothing of its neighbours.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

/// After this long a test hangs.
const HANG: Duration = Duration::from_secs(30);

pub struct ForwardProxy {
    listener: Arc<TcpListener>,
    asked: mpsc::Receiver<Vec<u8>>,
}

impl ForwardProxy {
    /// Serves each connection with `serve`, which sends what it was asked for.
    fn start(serve: impl Fn(&TcpStream, &mpsc::Sender<Vec<u8>>) + Send + Sync + 'static) -> Self {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let (sender, asked) = mpsc::channel();
        let (accepting, serve) = (listener.clone(), Arc::new(serve));
        thread::spawn(move || {
            for stream in accepting.incoming().map_while(Result::ok) {
                let (serve, sender) = (serve.clone(), sender.clone());
                thread::spawn(move || serve(&stream, &sender));
            }
        });
        Self { listener, asked }
    }

    /// Opens a tunnel to `target` for each `CONNECT`, and records the heads.
    pub fn http(target: SocketAddr) -> Self {
        Self::start(move |stream, asked| {
            let _ = asked.send(read_head(stream));
            let mut stream = stream;
            if stream.write_all(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n").is_ok() {
                relay(stream, target);
            }
        })
    }

    /// Answers each request with these bytes, and records the heads.
    pub fn answering(bytes: &'static [u8]) -> Self {
        Self::start(move |mut stream, asked| {
            let _ = asked.send(read_head(stream));
            let _ = stream.write_all(bytes);
            // So that unread bytes cause no reset.
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        })
    }

    /// Answers nothing. Records what it is asked for, and then what came until the connection was closed.
    pub fn silent() -> Self {
        Self::start(|mut stream, asked| {
            let mut message = vec![0; 4096];
            let length = stream.read(&mut message).unwrap_or(0);
            message.truncate(length);
            let _ = asked.send(message);
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            let _ = asked.send(rest);
        })
    }

    /// SOCKS 5: answers each message with the next of `answers`, records the messages, and leads to `target`
    /// after the last answer if there is one.
    pub fn socks(answers: &'static [&'static [u8]], target: Option<SocketAddr>) -> Self {
        Self::start(move |mut stream, asked| {
            for answer in answers {
                let mut message = vec![0; 512];
                let length = stream.read(&mut message).unwrap_or(0);
                message.truncate(length);
                let _ = asked.send(message);
                if stream.write_all(answer).is_err() {
                    return;
                }
            }
            if let Some(target) = target {
                relay(stream, target);
            }
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }

    /// What it was asked for next.
    pub fn asked(&self) -> Vec<u8> {
        self.asked.recv_timeout(HANG).expect("the proxy is asked")
    }

    /// The same as text.
    pub fn head(&self) -> String {
        String::from_utf8(self.asked()).expect("UTF-8")
    }

    /// Whether there was no other request.
    pub fn is_idle(&self) -> bool {
        self.asked.try_recv().is_err()
    }
}

impl Drop for ForwardProxy {
    fn drop(&mut self) {
        // Ends the accept, and with it the thread.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
    }
}

/// Reads to the blank line, and no byte further.
fn read_head(mut stream: &TcpStream) -> Vec<u8> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    head
}

/// Passes bytes on in both directions until one side closes, and then closes the other one.
fn relay(client: &TcpStream, target: SocketAddr) {
    let server = TcpStream::connect(target).expect("the target listens");
    let pass = |mut from: &TcpStream, mut to: &TcpStream| {
        let _ = io::copy(&mut from, &mut to);
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    };
    thread::scope(|scope| {
        scope.spawn(|| pass(client, &server));
        pass(&server, client);
    });
}
