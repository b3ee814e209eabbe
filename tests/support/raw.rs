//! An HTTP client that exposes every byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::HANG;

/// The counters of a final object.
pub const COUNTERS: &[&str] = &[
    "total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count",
    "eval_duration",
];

/// One connection.
pub struct Client {
    reader: BufReader<TcpStream>,
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub head: Head,
    pub body: String,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// The lines of a stream; each ends in a newline and is JSON.
    pub fn lines(&self) -> Vec<Value> {
        assert!(self.body.ends_with('\n'), "the last line ends, too: {:?}", self.body);
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|_| panic!("not a JSON line: {line:?}"))
        };
        self.body.lines().map(parse).collect()
    }

    /// As [`named_events`].
    pub fn events(&self) -> Vec<Value> {
        named_events(&self.body)
    }

    /// Asserts that this is an error with this status and text.
    #[track_caller]
    pub fn assert_error(&self, status: u16, text: &str) {
        assert_eq!((self.status(), self.error().as_str()), (status, text));
    }

    /// Asserts that this answer has this status and body.
    #[track_caller]
    pub fn assert_body(&self, status: u16, body: &str) {
        assert_eq!((self.status(), self.body.as_str()), (status, body));
    }

    /// The text of an error, which has no other member.
    pub fn error(&self) -> String {
        let json = self.json();
        assert_eq!(json.as_object().map(serde_json::Map::len), Some(1), "{json}");
        json["error"].as_str().expect("a string").to_owned()
    }
}

impl Client {
    pub fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("the proxy listens");
        stream.set_read_timeout(Some(HANG)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Self { reader: BufReader::new(stream) }
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The segments with data that have arrived. The proxy sends without Nagle's algorithm, so each is
    /// one write.
    #[cfg(target_os = "linux")]
    pub fn segments_received(&self) -> u32 {
        /// Position of `tcpi_data_segs_in` in the kernel's `struct tcp_info`, since Linux 4.6.
        const DATA_SEGMENTS: std::ops::Range<usize> = 152..156;
        let socket = self.stream().try_clone().expect("a socket").into();
        let (info, _) = ollama_openai_proxy::net::sys::tcp_info(&socket).expect("a TCP socket");
        u32::from_ne_bytes(info[DATA_SEGMENTS].try_into().expect("4 bytes"))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.reader.get_mut().write_all(bytes.as_ref()).expect("the proxy reads");
        self
    }

    /// Sends a request with a body.
    pub fn post(&mut self, path: &str, body: impl AsRef<[u8]>) -> &mut Self {
        self.call("POST", path, body)
    }

    /// Sends a request with a body, by any method.
    pub fn call(&mut self, method: &str, path: &str, body: impl AsRef<[u8]>) -> &mut Self {
        self.with(method, path, "", body)
    }

    /// Sends a request with these header lines, each with its line break, and a body.
    pub fn with(
        &mut self,
        method: &str,
        path: &str,
        lines: &str,
        body: impl AsRef<[u8]>,
    ) -> &mut Self {
        self.with_host("localhost", method, path, lines, body)
    }

    /// The same to another host.
    pub fn with_host(
        &mut self,
        host: &str,
        method: &str,
        path: &str,
        lines: &str,
        body: impl AsRef<[u8]>,
    ) -> &mut Self {
        let (body, length) = (body.as_ref(), body.as_ref().len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}Content-Length: {length}\r\n\r\n"
        );
        self.send([head.as_bytes(), body].concat())
    }

    /// Sends a request without a body.
    pub fn get(&mut self, path: &str) -> &mut Self {
        self.request("GET", path)
    }

    /// Sends a request without a body.
    pub fn request(&mut self, method: &str, path: &str) -> &mut Self {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// The next head; interim ones are passed over.
    pub fn head(&mut self) -> Head {
        loop {
            let head = self.any_head();
            if head.status >= 200 {
                return head;
            }
        }
    }

    fn any_head(&mut self) -> Head {
        let line = self.line().expect("an answer");
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut headers = Vec::new();
        while let Some(line) = self.line().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").expect("a header");
            headers.push((name.to_owned(), value.to_owned()));
        }
        Head { status: status.expect("a status"), headers }
    }

    /// A line of a head, without its end; `None` at the end of the connection.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).expect("an answer in time");
        (length > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let mut byte = [0; 1];
        self.reader.read_exact(&mut byte).expect("a byte in time");
        byte[0]
    }

    /// The next frame of a chunked body; `None` for the last.
    pub fn frame(&mut self) -> Option<String> {
        self.frame_bytes().map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
    }

    /// The same for a body that may be cut inside a character.
    pub fn frame_bytes(&mut self) -> Option<Vec<u8>> {
        let size = self.line().expect("a frame");
        let size = usize::from_str_radix(&size, 16).expect("a frame's size");
        let mut bytes = vec![0; size + 2];
        self.reader.read_exact(&mut bytes).expect("a whole frame");
        assert!(bytes.ends_with(b"\r\n"), "a frame ends");
        bytes.truncate(size);
        (size > 0).then_some(bytes)
    }

    /// What is left of a chunked body.
    pub fn rest_of_stream(&mut self) -> String {
        std::iter::from_fn(|| self.frame()).collect()
    }

    /// The answer to a request by this method: one to HEAD has no body.
    pub fn any_answer(&mut self, method: &str) -> Answer {
        match method {
            "HEAD" => Answer { head: self.head(), body: String::new() },
            _ => self.answer(),
        }
    }

    /// A whole answer.
    pub fn answer(&mut self) -> Answer {
        let head = self.head();
        let body = if head.status == 204 {
            String::new()
        } else if head.header("transfer-encoding") == Some("chunked") {
            std::iter::from_fn(|| self.frame()).collect()
        } else if let Some(length) = head.header("content-length") {
            let mut body = vec![0; length.parse().expect("a length")];
            self.reader.read_exact(&mut body).expect("a whole body");
            String::from_utf8(body).expect("UTF-8")
        } else {
            self.rest()
        };
        Answer { head, body }
    }

    /// Everything until the connection closes.
    pub fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.reader.read_to_string(&mut rest).expect("the connection closes");
        rest
    }
}

/// The data of a stream's events. Each event ends, and its name is the type of its data.
pub fn named_events(stream: &str) -> Vec<Value> {
    assert!(stream.ends_with("\n\n"), "the last event ends, too: {stream:?}");
    let data = stream.split_terminator("\n\n").map(|event| {
        let (name, data) = event.split_once("\ndata: ").expect("a name and data");
        assert!(!data.contains(['\n', '\r']), "{event:?}");
        let data: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str(), "{event}");
        data
    });
    data.collect()
}

/// The types of events.
pub fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap_or("?")).collect()
}

/// A chat request with one user message.
pub fn chat(content: &str) -> String {
    let content = Value::from(content);
    format!("{{\"model\":\"m\",\"messages\":[{{\"role\":\"user\",\"content\":{content}}}]}}")
}

/// The same for a whole answer.
pub fn chat_whole(content: &str) -> String {
    chat(content).replacen('{', "{\"stream\":false,", 1)
}
