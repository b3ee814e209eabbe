//! The requests that models answer now.
//!
//! A request is on the list from its first attempt at an upstream until its [`LiveTicket`] is dropped,
//! however it ends. Invariant: counting takes no lock.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Board, cut};
use crate::observe::lock::lock;

/// The most requests on the list; more are counted only.
pub const MAX_LIVE: usize = 1000;

/// A request that a model answers.
#[derive(Debug)]
pub struct LiveRequest {
    /// Its id in the log.
    pub id: Box<str>,
    /// Its row in the route table, or `other`.
    pub route: &'static str,
    /// The model's name as the client sent it.
    pub model: Box<str>,
    /// When it began to ask.
    pub since: Instant,
    upstream: Mutex<Box<str>>,
    tokens: AtomicU64,
}

impl LiveRequest {
    /// The upstream that it asks.
    pub fn upstream(&self) -> Box<str> {
        lock(&self.upstream).clone()
    }

    /// The pieces of its answer so far, each about a token.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Bytes of memory that it takes, without what allocations add.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let texts = self.id.len() + self.model.len() + self.upstream().len();
        size_of::<Self>() + 2 * size_of::<Arc<Self>>() + texts
    }
}

/// The list, in the order in which the requests began.
#[derive(Debug, Default)]
pub(super) struct LiveList(Mutex<Live>);

/// List and count change together, so that nobody sees one without the other.
#[derive(Debug, Default)]
struct Live {
    shown: Vec<Arc<LiveRequest>>,
    count: usize,
}

impl LiveList {
    pub(super) fn first(&self, most: usize) -> (Vec<Arc<LiveRequest>>, usize) {
        let live = lock(&self.0);
        (live.shown.iter().take(most).cloned().collect(), live.count)
    }

    fn add(&self, request: &Arc<LiveRequest>) {
        let mut live = lock(&self.0);
        live.count += 1;
        if live.shown.len() < MAX_LIVE {
            live.shown.push(request.clone());
        }
    }

    fn remove(&self, request: &Arc<LiveRequest>) {
        let mut live = lock(&self.0);
        live.count -= 1;
        if let Some(place) = live.shown.iter().position(|it| Arc::ptr_eq(it, request)) {
            live.shown.remove(place);
        }
    }
}

/// A request's place on the list: it begins with the first attempt, and ends when this is dropped. A clone
/// is an empty one, so that what is done beside a request does not keep it on the list.
#[derive(Default)]
pub struct LiveTicket {
    board: Option<(Arc<Board>, &'static str)>,
    request: Option<Arc<LiveRequest>>,
}

impl LiveTicket {
    pub(super) fn new(board: Arc<Board>, route: &'static str) -> Self {
        Self { board: Some((board, route)), request: None }
    }

    /// Notes that an upstream is asked: the first one, or another one.
    pub fn begin(&mut self, id: &str, model: &str, upstream: &str, now: Instant) {
        let Some((board, route)) = &self.board else { return };
        let upstream: Box<str> = cut(upstream).into();
        if let Some(request) = &self.request {
            *lock(&request.upstream) = upstream;
            return;
        }
        let request = Arc::new(LiveRequest {
            id: cut(id).into(),
            route,
            model: board.shown(model),
            since: now,
            upstream: Mutex::new(upstream),
            tokens: AtomicU64::new(0),
        });
        board.live.add(&request);
        self.request = Some(request);
    }

    /// Counts pieces of the answer. Only the thread that writes the answer counts, so a load and a store do.
    pub fn count(&self, pieces: u64) {
        if let Some(request) = &self.request {
            let before = request.tokens.load(Ordering::Relaxed);
            request.tokens.store(before + pieces, Ordering::Relaxed);
        }
    }

    /// The pieces so far.
    pub fn counted(&self) -> u64 {
        self.request.as_ref().map_or(0, |request| request.tokens())
    }
}

impl Clone for LiveTicket {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for LiveTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveTicket({} pieces)", self.counted())
    }
}

impl Drop for LiveTicket {
    fn drop(&mut self) {
        if let (Some((board, _)), Some(request)) = (&self.board, &self.request) {
            board.live.remove(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_live_from_its_first_attempt_to_its_end() {
        let (board, now) = (Arc::new(Board::default()), Instant::now());
        let mut first = board.ticket("/api/chat");
        let mut second = board.ticket("/v1/completions");
        first.count(1);
        assert_eq!((board.live(9).1, first.counted()), (0, 0), "nothing was asked");
        first.begin("a", "m", "lab", now);
        second.begin("b", "n", "lab", now);
        first.count(2);
        first.count(3);
        first.begin("a", "m", "other", now);
        let (live, all) = board.live(1);
        assert_eq!((live.len(), all), (1, 2));
        assert_eq!((&*live[0].id, &*live[0].upstream(), live[0].tokens()), ("a", "other", 5));
        let copy = first.clone();
        drop(first);
        assert_eq!(
            board.live(9).0.iter().map(|it| it.route).collect::<Vec<_>>(),
            ["/v1/completions"]
        );
        drop(copy);
        drop(second);
        assert_eq!(board.live(9).1, 0);
    }
}
