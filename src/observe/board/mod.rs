//! What the status page shows of requests: those that models answer now, the last 100, and the last hour by
//! the minute.
//!
//! Kept in memory only. Reads no clock: times are passed in. A request costs two short locks, one when it
//! begins to ask an upstream and one at its end; a token of its answer one addition without a lock.
//! Invariant: no prompt, no answer, no key and no text of an upstream is ever kept. A model's name, which a
//! client chooses, is redacted and cut; errors are kept as their kinds.
//!
//! # Bounds
//!
//! All of it takes less than 1 MiB ([`MAX_BYTES`]), whatever clients send:
//!
//! | what | number | bytes of each, at most |
//! | --- | --- | --- |
//! | requests that models answer now ([`live`]) | 1,000; more are only counted | 600 |
//! | requests that ended | 100 | 1,000 |
//! | minutes | 60 | 64 |

pub mod live;
mod minutes;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use self::live::LiveList;
pub use self::live::{LiveRequest, LiveTicket};
pub use self::minutes::Minute;
use self::minutes::Minutes;
use super::lock::lock;
use super::redact::Redactor;

/// The most bytes of memory that a board takes.
pub const MAX_BYTES: usize = 1 << 20;

/// The number of requests that are shown after their end.
pub const MAX_RECENT: usize = 100;

/// The most bytes of a text: a model's name, a request's id, the names of an upstream and of a key.
pub const MAX_TEXT_BYTES: usize = 100;

/// What stands for an error where the client left, which is none.
pub const CLIENT_LEFT: &str = "client_left";

/// What is known of requests.
#[derive(Debug)]
pub struct Board {
    redactor: Redactor,
    live: LiveList,
    ended: Mutex<Ended>,
}

#[derive(Debug)]
struct Ended {
    recent: VecDeque<Recent>,
    minutes: Minutes,
}

/// A request that has ended: one that is kept, or with texts of others.
#[derive(Clone, Copy, Debug)]
pub struct EndedRequest<T> {
    /// Its id in the log.
    pub id: T,
    /// When it ended.
    pub time: SystemTime,
    /// Its row in the route table, or `other`.
    pub route: &'static str,
    /// The model's name as the client sent it; empty if it named none.
    pub model: T,
    /// The upstream that was asked last; empty if none was.
    pub upstream: T,
    /// The status of the response; 0 if the client left before.
    pub status: u16,
    /// Requests to upstreams.
    pub attempts: u32,
    /// From its arrival to the first line of its stream.
    pub first_token: Option<Duration>,
    /// From its arrival to the end of its response.
    pub duration: Duration,
    /// Tokens of the prompt and of the response.
    pub tokens: (u64, u64),
    /// The kind of the error that ended it, or [`CLIENT_LEFT`].
    pub error: Option<&'static str>,
    /// The name of the client's key; empty if it has none.
    pub key: T,
}

/// One that is kept.
pub type Recent = EndedRequest<Box<str>>;

impl Board {
    /// An empty board of a server that starts now.
    pub fn new(redactor: Redactor, now: Instant) -> Self {
        let (recent, minutes) = (VecDeque::new(), Minutes::new(now));
        Self { redactor, live: LiveList::default(), ended: Mutex::new(Ended { recent, minutes }) }
    }

    /// Notes a request that has ended.
    pub fn record(&self, request: EndedRequest<&str>, now: Instant) {
        let EndedRequest { time, route, status, attempts, first_token, .. } = request;
        let EndedRequest { duration, tokens, error, .. } = request;
        let recent = EndedRequest {
            id: cut(request.id).into(),
            time,
            route,
            model: self.shown(request.model),
            upstream: cut(request.upstream).into(),
            status,
            attempts,
            first_token,
            duration,
            tokens,
            error,
            key: cut(request.key).into(),
        };
        let mut ended = lock(&self.ended);
        ended.minutes.add(&recent, now);
        if ended.recent.len() >= MAX_RECENT {
            ended.recent.pop_back();
        }
        ended.recent.push_front(recent);
    }

    /// The requests that ended last, the newest first.
    pub fn recent(&self) -> Vec<Recent> {
        lock(&self.ended).recent.iter().cloned().collect()
    }

    /// The last 60 minutes, the oldest first; the last one has not ended.
    pub fn minutes(&self, now: Instant) -> Vec<Minute> {
        lock(&self.ended).minutes.last_hour(now)
    }

    /// The first `most` of the requests that models answer now, the oldest first, and how many there are.
    pub fn live(&self, most: usize) -> (Vec<Arc<LiveRequest>>, usize) {
        self.live.first(most)
    }

    /// A ticket for a request of a route that asks models; nothing shows until it begins to ask.
    pub fn ticket(self: &Arc<Self>, route: &'static str) -> LiveTicket {
        LiveTicket::new(self.clone(), route)
    }

    /// A name that a client sent, without what may be a key, and cut.
    fn shown(&self, name: &str) -> Box<str> {
        let part = cut(name);
        if part.len() == name.len() {
            return cut(&self.redactor.redact(part)).into();
        }
        cut(&self.redactor.redact_truncated(part)).into()
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new(Redactor::default(), Instant::now())
    }
}

/// The beginning of a text.
fn cut(text: &str) -> &str {
    shorten(text, MAX_TEXT_BYTES)
}

/// The beginning of a text, of at most so many bytes.
pub fn shorten(text: &str, most: usize) -> &str {
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    &text[..(0..=most.min(text.len())).rev().find(is_boundary).unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::live::MAX_LIVE;
    use super::*;
    use crate::observe::redact::Secret;

    const REQUEST: EndedRequest<&str> = EndedRequest {
        id: "req_1",
        time: SystemTime::UNIX_EPOCH,
        route: "/api/chat",
        model: "m",
        upstream: "lab",
        status: 200,
        attempts: 1,
        first_token: None,
        duration: Duration::from_secs(1),
        tokens: (3, 4),
        error: None,
        key: "",
    };

    fn board() -> (Arc<Board>, Instant) {
        let now = Instant::now();
        let keys = [Secret::new("known-key-of-a-client")];
        (Arc::new(Board::new(Redactor::new(keys), now)), now)
    }

    #[test]
    fn the_last_hundred_requests_are_kept_the_newest_first() {
        let (board, now) = board();
        for number in 0..250 {
            let id = format!("req_{number}");
            board.record(EndedRequest { id: &id, ..REQUEST }, now);
        }
        let ids: Vec<_> = board.recent().into_iter().map(|it| it.id).collect();
        let expected: Vec<Box<str>> =
            (150..250).rev().map(|it| format!("req_{it}").into()).collect();
        assert_eq!(ids, expected);
    }

    #[test]
    fn keys_in_names_are_masked_also_where_they_are_cut() {
        let (board, now) = board();
        let long = format!("{}known-key-of-a-client", "x".repeat(90));
        let umlauts = "\u{e9}".repeat(80);
        for (name, expected) in [
            ("known-key-of-a-client", "***"),
            ("sk-abcdef0123456789", "sk-***"),
            (&long, &long[..90]),
            (&umlauts, &umlauts[..100]),
            ("m", "m"),
        ] {
            board.record(EndedRequest { model: name, ..REQUEST }, now);
            assert_eq!(&*board.recent()[0].model, expected);
        }
    }

    #[test]
    fn a_board_is_bounded_whatever_clients_send() {
        let (board, now) = board();
        let name = "n\u{fffd}".repeat(500_000);
        let name = name.as_str();
        let request = EndedRequest { id: name, model: name, upstream: name, key: name, ..REQUEST };
        for minute in 0..300 {
            board.record(request, now + Duration::from_secs(20 * minute));
        }
        let mut tickets = Vec::new();
        for _ in 0..2 * MAX_LIVE {
            let mut ticket = board.ticket("/api/chat");
            ticket.begin(name, name, &Arc::from(name), now);
            tickets.push(ticket);
        }
        // An allocation has some bytes of its own, and a vector may have twice the room that it needs.
        const ALLOCATION: usize = 32;
        let recent = board.recent();
        let texts = |it: &Recent| [it.id.len(), it.model.len(), it.upstream.len(), it.key.len()];
        let of_recent: usize = recent
            .iter()
            .map(|it| texts(it).iter().map(|length| length + ALLOCATION).sum::<usize>())
            .map(|bytes| bytes + 2 * size_of::<Recent>())
            .sum();
        let (live, all) = board.live(usize::MAX);
        let of_live: usize = live.iter().map(|it| it.bytes() + 4 * ALLOCATION).sum();
        let of_minutes = size_of::<Minutes>() + 60 * 2 * size_of::<Minute>();
        assert_eq!((recent.len(), live.len(), all), (MAX_RECENT, MAX_LIVE, 2 * MAX_LIVE));
        assert!(of_recent <= MAX_RECENT * 1000, "{of_recent}");
        assert!(of_live <= MAX_LIVE * 600, "{of_live}");
        assert!(of_recent + of_live + of_minutes < MAX_BYTES);
        drop(tickets);
        assert_eq!(board.live(usize::MAX).1, 0);
    }
}
