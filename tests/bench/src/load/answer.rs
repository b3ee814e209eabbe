//! What is seen of one answer while it comes, and whether it was whole and right. Pure: the time is
//! passed in. Knows the shape of answers and nothing of sockets.

use memchr::memchr_iter;

use super::options::Options;
use super::stats::{Kind, Stats};
use crate::http::{self, Sink};
use crate::model;
use crate::tokens::{self, Lines, Search};
use crate::upstream::answers::SHORT_TEXT;

/// A whole answer is kept for its check up to this length.
const MAX_KEPT: usize = 64 * 1024;

/// What every answer of a run is held against.
pub struct Expected {
    model: Option<model::Kind>,
    stream: bool,
    embed: bool,
    check: bool,
    late: u64,
    search: Search,
    tokens: Option<u64>,
}

impl Expected {
    /// Of a run with these options.
    pub fn new(options: &Options) -> Self {
        let model = model::Kind::of(&options.model);
        Self {
            model,
            stream: options.stream,
            embed: options.embed.is_some(),
            check: options.check,
            late: (options.late_ms * 1e6) as u64,
            search: Search::new(options.api),
            tokens: model.and_then(model::Kind::tokens).filter(|_| options.stream),
        }
    }
}

/// What was seen of the answer that a connection waits for.
#[derive(Debug, Default)]
pub struct Answer {
    /// What times count from.
    pub since: u64,
    seen: Seen,
    lines: Lines,
}

#[derive(Debug, Default)]
struct Seen {
    status: u16,
    tokens: u64,
    /// When the last token came, and what time it carried.
    last_at: u64,
    last_stamp: u64,
    ended: bool,
    out_of_order: bool,
    too_long: bool,
    first_byte: u8,
    last_byte: u8,
    brackets: u64,
    commas: u64,
    kept: Vec<u8>,
}

impl Answer {
    /// Begins to wait for the next one.
    pub fn begin(&mut self, since: u64) {
        self.since = since;
        let mut kept = std::mem::take(&mut self.seen.kept);
        kept.clear();
        self.seen = Seen { kept, ..Seen::default() };
        self.lines.clear();
    }

    /// How many tokens are missing of a stream that was begun.
    pub fn lost(&self, expected: &Expected) -> u64 {
        match expected.tokens {
            Some(count) if self.seen.status == 200 => count.saturating_sub(self.seen.tokens),
            _ => 0,
        }
    }

    /// Whether the answer, now that it is at its end, was whole and right.
    pub fn verdict(&self, expected: &Expected) -> Result<(), Kind> {
        let seen = &self.seen;
        if seen.status != 200 {
            return Err(Kind::Status(seen.status));
        }
        if seen.too_long {
            return Err(Kind::Framing);
        }
        let whole = if expected.stream { seen.ended } else { seen.whole(expected) };
        if !whole || self.lost(expected) > 0 {
            return Err(Kind::Incomplete);
        }
        let too_many = expected.tokens.is_some_and(|count| seen.tokens > count);
        let text = expected.check && !expected.stream && !seen.text_is_right(expected);
        if seen.out_of_order || too_many || text { Err(Kind::Order) } else { Ok(()) }
    }
}

impl Seen {
    /// A whole answer is one JSON object; one with vectors has all of them.
    fn whole(&self, expected: &Expected) -> bool {
        let object = self.first_byte == b'{' && self.last_byte == b'}';
        object
            && match expected.model {
                Some(model::Kind::Embed { vectors, numbers }) if expected.embed => {
                    self.brackets == vectors + 1 && self.commas >= vectors * numbers - 1
                }
                _ => true,
            }
    }

    fn text_is_right(&self, expected: &Expected) -> bool {
        expected.model != Some(model::Kind::Short)
            || memchr::memmem::find(&self.kept, SHORT_TEXT.as_bytes()).is_some()
    }

    fn whole_body(&mut self, expected: &Expected, piece: &[u8]) {
        let solid = |byte: &&u8| !byte.is_ascii_whitespace();
        if self.first_byte == 0 {
            self.first_byte = piece.iter().find(solid).copied().unwrap_or(0);
        }
        self.last_byte = piece.iter().rfind(solid).copied().unwrap_or(self.last_byte);
        if expected.embed {
            self.brackets += memchr_iter(b'[', piece).count() as u64;
            self.commas += memchr_iter(b',', piece).count() as u64;
        } else if expected.check && self.kept.len() + piece.len() <= MAX_KEPT {
            self.kept.extend_from_slice(piece);
        }
    }

    /// Whether the text is the one that comes after those before it.
    fn is_next(&self, model: Option<model::Kind>, text: &[u8]) -> bool {
        match model {
            Some(model::Kind::Stream(_)) => {
                text.strip_prefix(b" w").and_then(tokens::number) == Some(self.tokens)
            }
            Some(model::Kind::Paced { .. }) => {
                let stamp = text.strip_prefix(b"@").and_then(tokens::number);
                stamp.is_some_and(|stamp| stamp > self.last_stamp)
            }
            _ => true,
        }
    }
}

/// Takes in one read of an answer.
pub struct Reading<'a> {
    /// The answer it belongs to.
    pub answer: &'a mut Answer,
    /// What it is held against.
    pub expected: &'a Expected,
    /// Where it is counted.
    pub stats: &'a mut Stats,
    /// When it came.
    pub now: u64,
}

impl Sink for Reading<'_> {
    fn head(&mut self, head: &[u8]) {
        self.answer.seen.status = http::status(head).unwrap_or(0);
        if !self.expected.stream && self.answer.seen.status == 200 {
            self.stats.ttft.record(self.now.saturating_sub(self.answer.since));
        }
    }

    fn body(&mut self, piece: &[u8]) {
        let Self { answer, expected, stats, now } = self;
        let Answer { since, seen, lines } = &mut **answer;
        if !expected.stream {
            seen.whole_body(expected, piece);
        } else if seen.status == 200 {
            let fits = lines.push(piece, |line| {
                let found = expected.search.line(line);
                if let Some(text) = found.token {
                    token(seen, expected, stats, (*since, *now), text);
                }
                seen.ended |= found.end;
            });
            seen.too_long |= !fits;
        }
    }
}

/// Counts one content token, of the answer that is waited for since the first of the times, at the
/// second.
fn token(seen: &mut Seen, expected: &Expected, stats: &mut Stats, times: (u64, u64), text: &[u8]) {
    let (since, now) = times;
    if seen.tokens == 0 {
        stats.ttft.record(now.saturating_sub(since));
    } else if now != seen.last_at {
        stats.gap.record(now - seen.last_at);
    }
    seen.out_of_order |= seen.ended || (expected.check && !seen.is_next(expected.model, text));
    seen.tokens += 1;
    seen.last_at = now;
    stats.tokens += 1;
    if let Some(stamp) = text.strip_prefix(b"@").and_then(tokens::number) {
        let transit = now.saturating_sub(stamp);
        stats.transit.record(transit);
        stats.late += u64::from(transit > expected.late);
        seen.last_stamp = stamp;
    }
}
