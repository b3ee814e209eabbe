//! An upstream that can stop and start again at the same address.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::reserved::Reserved;
use super::upstream::MODELS;

/// What it answers to everything but lists.
const ANSWER: &str = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"ok"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}"#;

/// An address, and a server there at times.
pub struct Restarting {
    reserved: Reserved,
    running: Mutex<Option<Running>>,
}

struct Running {
    thread: JoinHandle<()>,
    ended: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Restarting {
    /// A free address where nothing listens.
    pub fn down() -> Self {
        Self { reserved: Reserved::new(), running: Mutex::default() }
    }

    pub fn base_url(&self) -> String {
        self.reserved.base_url()
    }

    pub fn start(&self) {
        let listener = TcpListener::bind(self.reserved.addr()).expect("the port is still free");
        let (ended, streams) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (told, kept): (_, Arc<Mutex<Vec<TcpStream>>>) = (ended.clone(), Arc::clone(&streams));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if told.load(Ordering::SeqCst) {
                    return;
                }
                kept.lock().expect("no panic").push(stream.try_clone().expect("a socket"));
                thread::spawn(move || serve(&stream));
            }
        });
        *self.running.lock().expect("no panic") = Some(Running { thread, ended, streams });
    }

    /// Closes the listener and all connections.
    pub fn stop(&self) {
        let running = self.running.lock().expect("no panic").take().expect("it runs");
        running.ended.store(true, Ordering::SeqCst);
        // Wakes it up.
        let _ = TcpStream::connect(self.reserved.addr());
        running.thread.join().expect("no panic");
        for stream in running.streams.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn serve(mut stream: &TcpStream) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if !reader.read_line(&mut line).is_ok_and(|length| length > 0) {
                return;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().expect("a length");
            }
            if first.is_empty() {
                first.clone_from(&line);
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let answer = if first.contains("/models") { MODELS } else { ANSWER };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        let answer = format!("{head}Content-Length: {}\r\n\r\n{answer}", answer.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
