//! An upstream that plays scripts and records its requests.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use socket2::SockRef;

use super::HANG;

/// One step of an answer.
pub enum Step {
    /// Sends bytes as they are.
    Send(Vec<u8>),
    /// Does nothing for a while.
    Pause(Duration),
    /// Sends these bytes repeatedly, with a pause before each, until the connection fails.
    Drip(Vec<u8>, Duration),
    /// Waits until the test sends a signal, or drops its sender.
    Wait(Receiver<()>),
    /// The same, and sends these bytes with this pause between, so that no timeout expires.
    WaitAlive(Vec<u8>, Duration, Receiver<()>),
    /// Waits until the proxy has closed the connection, and tells the test.
    UntilClosed(Sender<()>),
    /// Closes the connection.
    Close,
    /// Resets the connection.
    Reset,
}

/// What the upstream was asked.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

impl Recorded {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// How often a header was sent.
    pub fn count(&self, name: &str) -> usize {
        self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).count()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("the proxy sends JSON")
    }
}

/// Decides about a request by its body; `None` for one that takes the next script.
type Judge = Box<dyn Fn(&Recorded) -> Option<Vec<Step>> + Send>;

struct Shared {
    scripts: Mutex<VecDeque<Vec<Step>>>,
    judge: Mutex<Option<Judge>>,
    models: Mutex<Option<(String, String)>>,
    sides: Mutex<HashMap<String, String>>,
    connections: AtomicUsize,
    sender: Sender<Recorded>,
    aside: Sender<Recorded>,
}

/// Listens as long as an upstream, or a proxy in front of it, is there.
pub struct Listening(Arc<TcpListener>);

impl Drop for Listening {
    fn drop(&mut self) {
        // Ends the accept, and with it the thread and its descriptor.
        let _ = SockRef::from(&*self.0).shutdown(Shutdown::Both);
    }
}

/// The scripted upstream. Model lists are answered by themselves and not recorded, unless
/// [`Upstream::script_lists`] was called; so are the places beside the list, which are recorded apart
/// and 404 unless [`Upstream::side`] says otherwise. All else takes the next script.
pub struct Upstream {
    addr: SocketAddr,
    requests: Receiver<Recorded>,
    asides: Receiver<Recorded>,
    shared: Arc<Shared>,
    listening: Arc<Listening>,
}

impl Upstream {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1:0")
    }

    /// The same at another address.
    pub fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let (sender, requests) = unbounded();
        let (aside, asides) = unbounded();
        let shared = Arc::new(Shared {
            scripts: Mutex::default(),
            judge: Mutex::default(),
            models: Mutex::new(Some((String::new(), MODELS.to_owned()))),
            sides: Mutex::default(),
            connections: AtomicUsize::new(0),
            sender,
            aside,
        });
        let accepted = shared.clone();
        let listener = Arc::new(listener);
        let listening = Arc::new(Listening(listener.clone()));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = accepted.clone();
                let number = shared.connections.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || serve(&stream, &shared, number));
            }
        });
        Self { addr, requests, asides, shared, listening }
    }

    /// Keeps it listening when the test has no further use for it.
    pub fn listening(&self) -> Arc<Listening> {
        self.listening.clone()
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.addr)
    }

    /// Adds the answer to the next request that has none yet.
    pub fn script(&self, steps: Vec<Step>) -> &Self {
        self.shared.scripts.lock().expect("no panic").push_back(steps);
        self
    }

    /// Drops the answers that no request has taken.
    pub fn clear(&self) {
        self.shared.scripts.lock().expect("no panic").clear();
    }

    /// Answers each request as `judge` says; `None` for the next script.
    pub fn judge(&self, judge: impl Fn(&Recorded) -> Option<Vec<Step>> + Send + 'static) -> &Self {
        *self.shared.judge.lock().expect("no panic") = Some(Box::new(judge));
        self
    }

    /// Answers model lists with `body` from now on.
    pub fn list(&self, body: &str) {
        self.list_with("", body);
    }

    /// The same with these header lines, each with its line break.
    pub fn list_with(&self, headers: &str, body: &str) {
        let list = (headers.to_owned(), body.to_owned());
        *self.shared.models.lock().expect("no panic") = Some(list);
    }

    /// Answers a place beside the list with `body` from now on.
    pub fn side(&self, path: &str, body: &str) {
        let mut sides = self.shared.sides.lock().expect("no panic");
        sides.insert(path.to_owned(), body.to_owned());
    }

    /// The requests to metadata endpoints since the last call. The proxy sends them before it responds, so
    /// none is in transit afterwards.
    pub fn asides(&self) -> Vec<Recorded> {
        self.asides.try_iter().collect()
    }

    /// Takes scripts for model lists, too.
    pub fn script_lists(&self) {
        *self.shared.models.lock().expect("no panic") = None;
    }

    /// The next request that took a script.
    pub fn request(&self) -> Recorded {
        self.requests.recv_timeout(HANG).expect("the upstream is asked")
    }

    /// Whether no request is left that the test did not look at.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

/// The error for a response that the upstream does not send to its end.
pub const CUT_SHORT: &str = "the upstream closed the connection before its response was complete";

/// The list that is answered unless a test says otherwise.
pub const MODELS: &str = r#"{"object":"list","data":[
    {"id":"m","object":"model","created":1700000000,"owned_by":"scripted"},
    {"id":"tagged:8b","object":"model","created":1600000000,"owned_by":"scripted","context_length":8192},
    {"id":"text-embed","object":"model","owned_by":"scripted"}]}"#;

/// The places beside a list that some families have.
const SIDES: &[&str] = &[
    "/props", "/api/v0/models", "/model/info", "/v1/model/info", "/v1/models/capabilities",
    "/info", "/v1/embeddings/models", "/api/version", "/api/tags", "/api/ps", "/",
];

fn aside(shared: &Shared, request: Recorded) -> Step {
    let body = shared.sides.lock().expect("no panic").get(&request.path).cloned();
    let _ = shared.aside.send(request);
    body.map_or_else(|| status(404, &[], r#"{"error":"no such place"}"#), |body| json(&body))
}

fn serve(stream: &TcpStream, shared: &Shared, connection: usize) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader, connection) {
        // As a proxy it is asked with the whole URL.
        let path = request.path.strip_prefix("http://").and_then(|rest| rest.find('/'));
        let path = &request.path[path.map_or(0, |at| at + "http://".len())..];
        // A base URL may have a query.
        let path = path.split('?').next().unwrap_or_default();
        let steps = match &*shared.models.lock().expect("no panic") {
            _ if SIDES.contains(&path) => vec![aside(shared, request)],
            Some((headers, models)) if path.ends_with("/models") => {
                let length = models.len();
                let head = "HTTP/1.1 200 X\r\nContent-Type: application/json\r\n";
                let text = format!("{head}{headers}Content-Length: {length}\r\n\r\n{models}");
                vec![Step::Send(text.into_bytes())]
            }
            _ => {
                let judge = shared.judge.lock().expect("no panic");
                let judged = judge.as_ref().and_then(|judge| judge(&request));
                drop(judge);
                let script = || shared.scripts.lock().expect("no panic").pop_front();
                let steps = judged.or_else(script);
                let _ = shared.sender.send(request);
                steps.unwrap_or_else(|| vec![status(500, &[], r#"{"error":"no script left"}"#)])
            }
        };
        for step in steps {
            if play(stream, &mut reader, step).is_err() {
                return;
            }
        }
    }
}

fn play(mut stream: &TcpStream, reader: &mut impl Read, step: Step) -> io::Result<()> {
    match step {
        Step::Send(bytes) => stream.write_all(&bytes),
        Step::Pause(pause) => {
            thread::sleep(pause);
            Ok(())
        }
        Step::Drip(bytes, pause) => loop {
            thread::sleep(pause);
            stream.write_all(&bytes)?;
        },
        Step::Wait(told) => {
            let _ = told.recv_timeout(HANG);
            Ok(())
        }
        Step::WaitAlive(bytes, pause, told) => {
            while told.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                stream.write_all(&bytes)?;
            }
            Ok(())
        }
        Step::UntilClosed(closed) => {
            stream.set_read_timeout(Some(HANG))?;
            let mut rest = Vec::new();
            // A reset is a close, too; a deadline is not.
            let gone = match reader.read_to_end(&mut rest) {
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
                Ok(_) => true,
            };
            if gone {
                let _ = closed.send(());
            }
            Err(io::ErrorKind::NotConnected.into())
        }
        Step::Close => {
            let _ = stream.shutdown(Shutdown::Both);
            Err(io::ErrorKind::NotConnected.into())
        }
        Step::Reset => {
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
            Err(io::ErrorKind::NotConnected.into())
        }
    }
}

fn read_request(reader: &mut impl BufRead, connection: usize) -> Option<Recorded> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_owned(), value.to_owned())),
            None => break,
        }
    }
    let mut recorded = Recorded { method, path, headers, body: String::new(), connection };
    let length = recorded.header("content-length").and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    if recorded.header("transfer-encoding").is_some() {
        body = read_chunks(reader)?;
    }
    recorded.body = String::from_utf8(body).expect("the proxy sends UTF-8");
    Some(recorded)
}

/// A chunked body; `None` if it breaks off.
fn read_chunks(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let size = usize::from_str_radix(line.trim_end(), 16).expect("a chunk's size");
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk[..size]);
        if size == 0 {
            return Some(body);
        }
    }
}

/// A whole answer with status 200.
pub fn json(body: &str) -> Step {
    status(200, &[], body)
}

/// A whole JSON answer.
pub fn status(status: u16, headers: &[(&str, &str)], body: &str) -> Step {
    typed(status, "application/json", headers, body)
}

/// A whole answer of any type.
pub fn typed(status: u16, kind: &str, headers: &[(&str, &str)], body: &str) -> Step {
    let extra: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n");
    Step::Send(format!("{head}{extra}\r\n{body}").into_bytes())
}

/// OpenAI's refusal of a parameter; `hint` follows its sentence.
pub fn unsupported(parameter: &str, hint: &str) -> Step {
    let message =
        format!("Unsupported parameter: '{parameter}' is not supported with this model.{hint}");
    let error = serde_json::json!({"message": message, "type": "invalid_request_error",
        "param": parameter, "code": "unsupported_parameter"});
    status(400, &[], &serde_json::json!({ "error": error }).to_string())
}

/// The head of a chunked event stream.
pub fn stream_head() -> Step {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    Step::Send(head.into())
}

/// One frame of a chunked body.
pub fn frame(bytes: &str) -> Step {
    Step::Send(format!("{:x}\r\n{bytes}\r\n", bytes.len()).into_bytes())
}

/// The event of a text delta.
pub fn text_event(text: &str) -> String {
    let text = serde_json::Value::from(text);
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":{text}}}}}]}}\n\n")
}

/// A text delta as a frame.
pub fn delta(text: &str) -> Step {
    frame(&text_event(text))
}

/// The last frame of a chunked body.
pub fn last_frame() -> Step {
    Step::Send(b"0\r\n\r\n".to_vec())
}

/// What ends an event stream: reason, counts, `[DONE]`, last frame.
pub fn ending() -> Vec<Step> {
    vec![
        frame("data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"),
        frame(
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7}}\n\n",
        ),
        frame("data: [DONE]\n\n"),
        last_frame(),
    ]
}

/// A stream of these steps and the usual end.
pub fn ended(mut steps: Vec<Step>) -> Vec<Step> {
    steps.extend(ending());
    steps
}

/// A stream of two texts, `one` and `two`, of which the second one comes when the sender is dropped.
pub fn halting() -> (Sender<()>, Vec<Step>) {
    let (go_on, told) = bounded(0);
    (go_on, ended(vec![stream_head(), delta("one"), Step::Wait(told), delta("two")]))
}

/// A whole event stream of text deltas.
pub fn stream(texts: &[&str]) -> Vec<Step> {
    let mut steps = vec![stream_head()];
    steps.extend(texts.iter().map(|text| delta(text)));
    steps.extend(ending());
    steps
}

/// A whole chat answer.
pub fn answer(text: &str) -> Step {
    let text = serde_json::Value::from(text);
    json(&format!(
        "{{\"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":{text}}},\"finish_reason\":\"stop\"}}],\
         \"usage\":{{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7}}}}"
    ))
}
