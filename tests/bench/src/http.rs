//! Where an HTTP/1.1 message ends: heads, `Content-Length` and chunked framing. Pure: bytes come in
//! through [`Parser::push`] in pieces of any size, and the head and the pieces of the body go to a
//! [`Sink`]. Knows nothing of what a body holds.
//!
//! Invariant: what the sink gets does not depend on where the input was cut, but for the number of
//! pieces of the body.

use memchr::{memchr, memmem};

/// No head is longer than this.
const MAX_HEAD: usize = 64 * 1024;
/// No chunk is longer than this; it also bounds the digits.
const MAX_CHUNK: u64 = 1 << 40;

/// Takes what a message is made of.
pub trait Sink {
    /// The head, with the blank line that ends it. Interim answers (1xx) are left out.
    fn head(&mut self, head: &[u8]);
    /// The next piece of the body, framing removed.
    fn body(&mut self, piece: &[u8]);
}

/// The bytes are no HTTP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// Which kind of message is read: they differ in what no framing at all means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Without framing it has no body.
    Request,
    /// Without framing it would end with the connection, which nobody here may do.
    Answer,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Head,
    Fixed(u64),
    /// The digits of a chunk's size so far, and how many there were.
    Size(u64, u8),
    /// What stands between the size and the end of its line.
    Extension(u64),
    Data(u64),
    /// The line end behind the data of a chunk: how much of it was seen.
    DataEnd(bool),
    /// The length of the line so far, below the last chunk.
    Trailer(u32),
    Done,
}

/// Reads one message after the other.
#[derive(Debug)]
pub struct Parser {
    side: Side,
    state: State,
    carry: Vec<u8>,
    close: bool,
}

impl Parser {
    /// At the begin of a connection.
    pub fn new(side: Side) -> Self {
        Self { side, state: State::Head, carry: Vec::new(), close: false }
    }

    /// The last head said that the connection ends with its message.
    pub fn close(&self) -> bool {
        self.close
    }

    /// Nothing of a message was read since the last one ended.
    pub fn idle(&self) -> bool {
        matches!(self.state, State::Head) && self.carry.is_empty()
    }

    /// Reads up to the end of the message. Gives how many bytes were read if it ended, and none if
    /// it needs more than there are.
    pub fn push(&mut self, input: &[u8], sink: &mut impl Sink) -> Result<Option<usize>, Broken> {
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            at += match self.state {
                State::Head => self.head(rest, sink)?,
                State::Fixed(left) | State::Data(left) => self.data(rest, left, sink),
                _ => {
                    self.state = self.framing(rest[0])?;
                    1
                }
            };
            if matches!(self.state, State::Done) {
                self.state = State::Head;
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn data(&mut self, rest: &[u8], left: u64, sink: &mut impl Sink) -> usize {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        sink.body(&rest[..take]);
        let left = left - take as u64;
        self.state = match self.state {
            State::Fixed(_) if left == 0 => State::Done,
            State::Fixed(_) => State::Fixed(left),
            _ if left == 0 => State::DataEnd(false),
            _ => State::Data(left),
        };
        take
    }

    /// One byte of chunked framing outside the data.
    fn framing(&self, byte: u8) -> Result<State, Broken> {
        let sized = |size| if size == 0 { State::Trailer(0) } else { State::Data(size) };
        match (self.state, byte) {
            (State::Size(size, digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).ok_or(Broken)?;
                let size = size << 4 | u64::from(digit);
                if size > MAX_CHUNK || digits > 32 {
                    Err(Broken)
                } else {
                    Ok(State::Size(size, digits + 1))
                }
            }
            (State::Size(_, 0), _) => Err(Broken),
            (State::Size(size, _), b'\n') | (State::Extension(size), b'\n') => Ok(sized(size)),
            (State::Size(size, _), b'\r' | b';' | b' ' | b'\t') => Ok(State::Extension(size)),
            (State::Extension(size), _) => Ok(State::Extension(size)),
            (State::DataEnd(false), b'\r') => Ok(State::DataEnd(true)),
            (State::DataEnd(_), b'\n') => Ok(State::Size(0, 0)),
            (State::Trailer(0), b'\n') => Ok(State::Done),
            (State::Trailer(_), b'\n') => Ok(State::Trailer(0)),
            (State::Trailer(length), b'\r') => Ok(State::Trailer(length)),
            (State::Trailer(length), _) if (length as usize) < MAX_HEAD => {
                Ok(State::Trailer(length + 1))
            }
            _ => Err(Broken),
        }
    }

    /// Reads of the head what there is; most heads come in one piece and are not copied.
    fn head(&mut self, input: &[u8], sink: &mut impl Sink) -> Result<usize, Broken> {
        const END: &[u8] = b"\r\n\r\n";
        if self.carry.is_empty()
            && let Some(at) = memmem::find(input, END)
        {
            let used = at + END.len();
            self.begin(&input[..used], sink)?;
            return Ok(used);
        }
        let before = self.carry.len();
        self.carry.extend_from_slice(input);
        let from = before.saturating_sub(END.len() - 1);
        let Some(at) = memmem::find(&self.carry[from..], END) else {
            return if self.carry.len() > MAX_HEAD { Err(Broken) } else { Ok(input.len()) };
        };
        let end = from + at + END.len();
        let mut head = std::mem::take(&mut self.carry);
        let begun = self.begin(&head[..end], sink);
        head.clear();
        self.carry = head;
        begun.map(|()| end - before)
    }

    /// Takes the framing from a whole head.
    fn begin(&mut self, head: &[u8], sink: &mut impl Sink) -> Result<(), Broken> {
        let status = status(head);
        if self.side == Side::Answer && status.is_none() {
            return Err(Broken);
        }
        let head_only = matches!(status, Some(204 | 304)) || self.side == Side::Request;
        if matches!(status, Some(100..=199)) {
            return Ok(());
        }
        let framing = Framing::of(head)?;
        self.close = framing.close;
        self.state = match framing.length {
            _ if framing.chunked => State::Size(0, 0),
            Some(0) => State::Done,
            Some(length) => State::Fixed(length),
            None if head_only => State::Done,
            None => return Err(Broken),
        };
        sink.head(head);
        Ok(())
    }
}

/// The status of an answer's head; none for a request.
pub fn status(head: &[u8]) -> Option<u16> {
    let digits = head.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What the headers say of the body.
#[derive(Default)]
struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
}

impl Framing {
    fn of(head: &[u8]) -> Result<Self, Broken> {
        let mut framing = Self::default();
        let mut rest = head;
        while let Some(end) = memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            let Some(colon) = memchr(b':', line) else { continue };
            let value = || std::str::from_utf8(&line[colon + 1..]).map_or("", str::trim);
            let name = &line[..colon];
            if name.eq_ignore_ascii_case(b"content-length") {
                framing.length = Some(value().parse().map_err(|_| Broken)?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                framing.chunked = value().eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case(b"connection") {
                framing.close = value().eq_ignore_ascii_case("close");
            }
        }
        Ok(framing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, Debug, PartialEq, Eq)]
    struct Seen {
        heads: Vec<Vec<u8>>,
        body: Vec<u8>,
    }

    impl Sink for Seen {
        fn head(&mut self, head: &[u8]) {
            self.heads.push(head.to_vec());
        }
        fn body(&mut self, piece: &[u8]) {
            self.body.extend_from_slice(piece);
        }
    }

    /// Reads the pieces; how many messages ended, or that they were broken.
    fn read(side: Side, pieces: &[&[u8]]) -> (Result<usize, Broken>, Seen) {
        let (mut parser, mut seen, mut ended) = (Parser::new(side), Seen::default(), 0);
        for piece in pieces {
            let mut rest = *piece;
            loop {
                match parser.push(rest, &mut seen) {
                    Ok(None) => break,
                    Ok(Some(used)) => rest = &rest[used..],
                    Err(Broken) => return (Err(Broken), seen),
                }
                ended += 1;
            }
        }
        assert!(pieces.concat().is_empty() || ended > 0 || !parser.idle());
        (Ok(ended), seen)
    }

    const CHUNKED: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n\
        6\r\nhello \r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nTrailer: 1\r\n\r\n\
        HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\nConnection: close\r\n\r\nend";

    #[test]
    fn answers_cut_at_every_pair_of_bytes_are_the_same() {
        let (ended, whole) = read(Side::Answer, &[CHUNKED]);
        assert_eq!((ended, whole.heads.len()), (Ok(3), 3));
        assert_eq!(whole.body, b"hello abcdefghijklmnopqrstuvwxyzend");
        for first in 0..=CHUNKED.len() {
            for second in first..=CHUNKED.len() {
                let pieces = [&CHUNKED[..first], &CHUNKED[first..second], &CHUNKED[second..]];
                let (ended, seen) = read(Side::Answer, &pieces);
                assert_eq!((ended, &seen), (Ok(3), &whole), "{first} {second}");
            }
        }
    }

    #[test]
    fn requests_end_where_they_say() {
        let all = b"GET /models HTTP/1.1\r\nHost: x\r\n\r\nPOST /x HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
        for cut in 0..=all.len() {
            let (ended, seen) = read(Side::Request, &[&all[..cut], &all[cut..]]);
            assert_eq!((ended, seen.heads.len(), &seen.body[..]), (Ok(2), 2, &b"{}"[..]), "{cut}");
        }
    }

    #[test]
    fn a_message_that_is_cut_short_does_not_end() {
        let body = CHUNKED.len() - b"end".len();
        let (ended, _) = read(Side::Answer, &[&CHUNKED[..body]]);
        assert_eq!(ended, Ok(2));
    }

    #[test]
    fn broken_framing_is_told() {
        for rest in [
            "Content-Length: x\r\n\r\n",
            "\r\n",
            "Transfer-Encoding: chunked\r\n\r\nx\r\n",
            "Transfer-Encoding: chunked\r\n\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            "Transfer-Encoding: chunked\r\n\r\n1\r\nab",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{rest}");
            assert_eq!(read(Side::Answer, &[text.as_bytes()]).0, Err(Broken), "{rest}");
        }
        assert_eq!(read(Side::Answer, &[b"GET / HTTP/1.1\r\n\r\n"]).0, Err(Broken));
        let endless = vec![b'x'; MAX_HEAD + 1];
        assert_eq!(read(Side::Answer, &[&endless]).0, Err(Broken));
    }

    #[test]
    fn the_end_of_a_connection_is_seen() {
        for (value, close) in [("close", true), ("keep-alive", false)] {
            let text =
                format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: {value}\r\n\r\n");
            let mut parser = Parser::new(Side::Answer);
            let used = parser.push(text.as_bytes(), &mut Seen::default());
            assert_eq!((used, parser.close()), (Ok(Some(text.len())), close));
        }
    }
}
