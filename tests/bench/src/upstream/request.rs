//! What the scripted upstream wants to know of a request: its method and path, and of its body the
//! model and whether a usage chunk is asked for. Bodies of any size are searched and dropped. Pure.
//!
//! Invariant: what is found does not depend on where the body was cut.

use memchr::memmem::Finder;

use crate::http::Sink;

/// What may be cut in two: a name with its value. Longer names of models are not found.
const OVERLAP: usize = 256;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endpoint {
    /// The list of models.
    Models,
    /// A chat.
    Chat,
    /// Vectors.
    Embeddings,
    /// Nothing that is served.
    #[default]
    Other,
}

impl Endpoint {
    fn of(head: &[u8]) -> Self {
        let mut words = head.split(|&byte| byte == b' ');
        let (method, target) = (words.next().unwrap_or(b""), words.next().unwrap_or(b""));
        let path = target.split(|&byte| byte == b'?').next().unwrap_or(b"");
        match method {
            b"GET" if path.ends_with(b"/models") => Self::Models,
            b"POST" if path.ends_with(b"/chat/completions") => Self::Chat,
            b"POST" if path.ends_with(b"/embeddings") => Self::Embeddings,
            _ => Self::Other,
        }
    }
}

/// What is searched for.
pub struct Needles {
    model: Finder<'static>,
    usage: Finder<'static>,
}

impl Default for Needles {
    fn default() -> Self {
        Self { model: Finder::new(b"\"model\""), usage: Finder::new(b"\"include_usage\"") }
    }
}

/// What was found so far of one request.
#[derive(Debug, Default)]
pub struct Request {
    /// What is asked for.
    pub endpoint: Endpoint,
    /// The model; empty where none was found.
    pub model: Vec<u8>,
    /// A usage chunk is asked for.
    pub usage: bool,
    /// The end of the body so far, in case that something is cut in two there.
    pub(super) carry: Vec<u8>,
}

/// Fills a request while its message is read.
pub struct Reading<'a> {
    /// What is filled.
    pub request: &'a mut Request,
    /// What is searched for.
    pub needles: &'a Needles,
}

impl Sink for Reading<'_> {
    fn head(&mut self, head: &[u8]) {
        self.request.endpoint = Endpoint::of(head);
        self.request.model.clear();
        self.request.usage = false;
        self.request.carry.clear();
    }

    fn body(&mut self, piece: &[u8]) {
        let request = &mut *self.request;
        if !request.carry.is_empty() {
            let mut seam = std::mem::take(&mut request.carry);
            seam.extend_from_slice(&piece[..piece.len().min(OVERLAP)]);
            request.search(&seam, self.needles);
            request.carry = seam;
        }
        request.search(piece, self.needles);
        if piece.len() >= OVERLAP || request.carry.is_empty() {
            request.carry.clear();
            request.carry.extend_from_slice(&piece[piece.len().saturating_sub(OVERLAP)..]);
        } else {
            request.carry.drain(..request.carry.len().saturating_sub(OVERLAP));
        }
    }
}

impl Request {
    fn search(&mut self, bytes: &[u8], needles: &Needles) {
        if self.model.is_empty() {
            let found = needles.model.find_iter(bytes).find_map(|at| {
                let text =
                    value(&bytes[at + needles.model.needle().len()..])?.strip_prefix(b"\"")?;
                memchr::memchr(b'"', &text[..text.len().min(OVERLAP)]).map(|end| &text[..end])
            });
            self.model.extend_from_slice(found.unwrap_or(b""));
        }
        if !self.usage {
            self.usage = needles.usage.find(bytes).is_some_and(|at| {
                let rest = &bytes[at + needles.usage.needle().len()..];
                value(rest).is_some_and(|rest| rest.starts_with(b"true"))
            });
        }
    }
}

/// What stands behind the colon.
fn value(rest: &[u8]) -> Option<&[u8]> {
    Some(rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> (String, bool) {
        let (mut request, needles) = (Request::default(), Needles::default());
        let mut reading = Reading { request: &mut request, needles: &needles };
        pieces.iter().for_each(|piece| reading.body(piece));
        (String::from_utf8_lossy(&request.model).into_owned(), request.usage)
    }

    #[test]
    fn bodies_cut_at_every_pair_of_bytes_ask_for_the_same() {
        let body = b"{\"x\":\"model\",\"model\" : \"stream-7\",\"a\":{\"model\":\"short\"},\
            \"stream_options\":{\"include_usage\": true}}";
        for first in 0..=body.len() {
            for second in first..=body.len() {
                let pieces = [&body[..first], &body[first..second], &body[second..]];
                assert_eq!(read(&pieces), ("stream-7".to_owned(), true), "{first} {second}");
            }
        }
    }

    #[test]
    fn what_is_cut_between_large_pieces_is_found() {
        let body = [&[b'x'; 999][..], b"\"model\":\"short\"", &[b'x'; 999][..]].concat();
        for cut in 990..1020 {
            assert_eq!(read(&[&body[..cut], &body[cut..]]).0, "short", "{cut}");
        }
        assert_eq!(read(&[b"{\"include_usage\":false,\"model\":null}"]), (String::new(), false));
    }

    #[test]
    fn heads_name_what_is_asked_for() {
        let check =
            |head: &str, endpoint| assert_eq!(Endpoint::of(head.as_bytes()), endpoint, "{head}");
        check("GET /v1/models HTTP/1.1\r\n\r\n", Endpoint::Models);
        check("POST /v1/chat/completions?x=y HTTP/1.1\r\n\r\n", Endpoint::Chat);
        check("POST /embeddings HTTP/1.1\r\n\r\n", Endpoint::Embeddings);
        check("GET /v1/embeddings HTTP/1.1\r\n\r\n", Endpoint::Other);
        check("x", Endpoint::Other);
    }
}
