//! When a connection has to go.
//!
//! Pure: what the kernel and the registry know of one connection comes in with the time of the look,
//! a `Verdict` comes out. A `Connection` is what is remembered of it between two looks.
//! Invariant: a connection whose request is being worked on is never cut, however long that takes.

use std::time::{Duration, Instant};

use super::registry::Phase;

/// How long a new connection is expected to ask something, where it matters whether it will.
const NEW: Duration = Duration::from_millis(250);

/// How long a connection may be kept without a request by a server that is to end.
const LAST_IDLE: Duration = Duration::from_secs(5);

/// Bytes of a head that most never have.
const GROWING: u64 = 8 * 1024;

/// What a connection may do, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Bytes of bodies that all together may be held at once; `None` for what memory allows.
    pub bodies: Option<usize>,
    /// Bytes of a head, those of a small body included, which tiny_http reads along with it.
    pub head_bytes: u64,
    /// How long a head may take from its first byte.
    pub head_time: Duration,
    /// How long a connection may be kept without a request.
    pub idle: Duration,
    /// Bytes a second that a body must come with, on the average,
    pub floor: u64,
    /// after this time, and after each pause that was ours.
    pub grace: Duration,
    /// How long a body may take altogether.
    pub body_time: Duration,
    /// How long the rest of an unread body, or a connection that we have closed, is borne.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            bodies: None,
            head_bytes: 64 * 1024,
            head_time: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            floor: 1024,
            grace: Duration::from_secs(10),
            body_time: Duration::from_secs(300),
            linger: Duration::from_secs(3),
        }
    }
}

impl Limits {
    /// Those of a server that is to end.
    pub(super) fn at_the_end(self) -> Self {
        Self { idle: self.idle.min(LAST_IDLE), ..self }
    }
}

/// Why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Its head is too large.
    LargeHead,
    /// Its head takes too long.
    SlowHead,
    /// It asked nothing for too long.
    Idle,
    /// Its body takes too long.
    SlowBody,
    /// There are too many.
    TooMany,
    /// It was answered for the last time.
    Answered,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::LargeHead,
        Self::SlowHead,
        Self::Idle,
        Self::SlowBody,
        Self::TooMany,
        Self::Answered,
    ];

    /// A word for the log and the metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::LargeHead => "large_head",
            Self::SlowHead => "slow_head",
            Self::Idle => "idle",
            Self::SlowBody => "slow_body",
            Self::TooMany => "too_many",
            Self::Answered => "answered",
        }
    }
}

/// What has become of the other side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// It may still send.
    Sends,
    /// It sends no more. Whether it still reads only a byte to it can tell.
    SentAll,
    /// It is gone.
    Gone,
}

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// It is shut down.
    Cut(Reason),
    /// No more of its body is read; it is told why.
    Late,
    /// It is told that nothing more will come.
    Close,
    /// Its client has left.
    Left,
    /// Its client may have left: a byte will tell.
    Ask,
}

/// What one look at a connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub peer: Peer,
    /// Bytes received, and taken as far as that is known, since it was opened.
    pub received: u64,
    /// Whether bytes wait that we have not taken, while a body is read.
    pub waiting: bool,
    /// Changes whenever a request begins or ends.
    pub moves: u64,
    /// How far the oldest of its requests is; `None` when none is in hand.
    pub phase: Option<Phase>,
    pub condemned: bool,
}

/// What is remembered of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    moves: u64,
    phase: Option<Phase>,
    /// Bytes received up to the head that is awaited, or the body that is read.
    before: u64,
    /// Since when what we are at now lasts: silence, a head, a body, a lingering.
    since: Instant,
    /// Whether a head has begun.
    heading: bool,
    /// When the body that is read began.
    body_since: Instant,
    /// Whether it was told that its body is late.
    late: bool,
    closed: bool,
    cut: bool,
}

impl Connection {
    pub(super) fn new(look: &Look, now: Instant) -> Self {
        Self {
            moves: look.moves,
            phase: None,
            // What came before the first look was a head, unless there was a request already.
            before: if look.moves == 0 { 0 } else { look.received },
            since: now,
            heading: false,
            body_since: now,
            late: false,
            closed: false,
            cut: false,
        }
    }

    /// Judges what a look shows.
    pub(super) fn judge(&mut self, look: &Look, now: Instant, limits: &Limits) -> Verdict {
        if self.cut {
            return Verdict::Keep;
        }
        if look.peer == Peer::Gone {
            return Verdict::Left;
        }
        if (self.moves, self.phase) != (look.moves, look.phase) {
            (self.moves, self.phase) = (look.moves, look.phase);
            (self.before, self.since, self.body_since) = (look.received, now, now);
            self.heading = false;
        }
        let verdict = match look.phase {
            _ if look.condemned => self.ended(look, now, limits),
            None => self.awaited(look, now, limits),
            Some(Phase::Lingering | Phase::Over) if self.lasts(now) >= limits.linger => {
                Verdict::Cut(Reason::Answered)
            }
            Some(Phase::Lingering | Phase::Over) => Verdict::Keep,
            Some(Phase::Reading) if self.late => Verdict::Keep,
            Some(Phase::Reading) => self.reading(look, now, limits),
            Some(Phase::Waiting | Phase::Working) if look.peer == Peer::SentAll => Verdict::Ask,
            Some(Phase::Waiting | Phase::Working) => Verdict::Keep,
        };
        self.late |= verdict == Verdict::Late;
        self.cut |= matches!(verdict, Verdict::Cut(_));
        verdict
    }

    /// Whether it waits for its client, and since when; those with a half-sent head come after all
    /// others.
    pub(super) fn spare(&self, look: &Look) -> Option<(bool, Instant)> {
        let spare = look.phase.is_none() && !self.cut;
        spare.then_some((self.heading, self.since))
    }

    /// Whether a request is on its way on it, as far as one can tell: it has begun to come, or the
    /// connection is so new that its first one is to be expected. `unread` is whether something has
    /// come that nobody has taken: tiny_http may have no thread for it yet.
    pub(super) fn is_asking(&self, look: &Look, unread: bool, now: Instant) -> bool {
        let new = look.moves == 0 && look.peer == Peer::Sends && self.lasts(now) < NEW;
        look.phase.is_none() && !look.condemned && !self.cut && (self.heading || unread || new)
    }

    /// Whether a head is on its way that may become too large before the next look.
    pub(super) fn is_growing(&self, look: &Look) -> bool {
        let grown = look.received.saturating_sub(self.before);
        look.phase.is_none() && !self.cut && grown > GROWING
    }

    /// It is one too many.
    pub(super) fn is_too_many(&mut self) {
        self.cut = true;
    }

    fn lasts(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// No request is in hand.
    fn awaited(&mut self, look: &Look, now: Instant, limits: &Limits) -> Verdict {
        let head = look.received.saturating_sub(self.before);
        if head > limits.head_bytes {
            return Verdict::Cut(Reason::LargeHead);
        }
        if head > 0 && !self.heading {
            (self.heading, self.since) = (true, now);
        }
        match self.heading {
            false if self.lasts(now) >= limits.idle => Verdict::Cut(Reason::Idle),
            true if self.lasts(now) >= limits.head_time => Verdict::Cut(Reason::SlowHead),
            _ => Verdict::Keep,
        }
    }

    /// A body is being read. A client that cannot send because we do not take is not to blame.
    fn reading(&mut self, look: &Look, now: Instant, limits: &Limits) -> Verdict {
        if now.saturating_duration_since(self.body_since) >= limits.body_time {
            return Verdict::Late;
        }
        if look.waiting {
            (self.before, self.since) = (look.received, now);
            return Verdict::Keep;
        }
        let counts = self.lasts(now).saturating_sub(limits.grace).as_millis();
        let wanted = u128::from(limits.floor) * counts / 1000;
        let came = look.received.saturating_sub(self.before);
        if counts > 0 && u128::from(came) <= wanted { Verdict::Late } else { Verdict::Keep }
    }

    /// The last answer has been, or is being, given.
    fn ended(&mut self, look: &Look, now: Instant, limits: &Limits) -> Verdict {
        let over = matches!(self.phase, None | Some(Phase::Over));
        let answered = over || self.phase == Some(Phase::Lingering);
        match (answered, self.closed) {
            // The answer is on its way.
            (false, _) => Verdict::Keep,
            (true, false) => {
                (self.closed, self.since) = (true, now);
                Verdict::Close
            }
            // Nothing more comes, or nothing that is wanted.
            (true, true) if look.peer == Peer::SentAll || (over && look.received > self.before) => {
                Verdict::Cut(Reason::Answered)
            }
            (true, true) if self.lasts(now) >= limits.linger => Verdict::Cut(Reason::Answered),
            (true, true) => Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at one connection, each with its time in seconds, and the verdicts they bring.
    #[track_caller]
    fn check(looks: &[(u64, Look, Verdict)]) {
        let start = Instant::now();
        let mut connection = Connection::new(&looks[0].1, start);
        for (index, (seconds, look, expected)) in looks.iter().enumerate() {
            let now = start + Duration::from_secs(*seconds);
            let found = connection.judge(look, now, &Limits::default());
            assert_eq!(found, *expected, "look {index} at {seconds} s: {look:?}");
        }
    }

    const NOTHING: Look = Look {
        peer: Peer::Sends,
        received: 0,
        waiting: false,
        moves: 0,
        phase: None,
        condemned: false,
    };

    fn received(bytes: u64) -> Look {
        Look { received: bytes, ..NOTHING }
    }

    fn phase(phase: Phase, received: u64) -> Look {
        Look { phase: Some(phase), moves: 1, received, ..NOTHING }
    }

    #[test]
    fn silence_is_borne_for_75_seconds() {
        check(&[(0, NOTHING, Verdict::Keep), (74, NOTHING, Verdict::Keep)]);
        check(&[(0, NOTHING, Verdict::Keep), (75, NOTHING, Verdict::Cut(Reason::Idle))]);
        let after = Look { moves: 2, ..received(500) };
        check(&[
            (0, phase(Phase::Working, 500), Verdict::Keep),
            (300, after, Verdict::Keep),
            (374, after, Verdict::Keep),
            (375, after, Verdict::Cut(Reason::Idle)),
            (376, after, Verdict::Keep),
        ]);
    }

    #[test]
    fn a_head_has_10_seconds_from_its_first_byte() {
        check(&[
            (0, NOTHING, Verdict::Keep),
            (70, received(1), Verdict::Keep),
            (79, received(9), Verdict::Keep),
            (80, received(9), Verdict::Cut(Reason::SlowHead)),
        ]);
        let again = |bytes| Look { moves: 2, ..received(bytes) };
        check(&[
            (0, phase(Phase::Working, 500), Verdict::Keep),
            (1, again(500), Verdict::Keep),
            (60, again(501), Verdict::Keep),
            (69, again(502), Verdict::Keep),
            (70, again(503), Verdict::Cut(Reason::SlowHead)),
        ]);
    }

    #[test]
    fn a_new_connection_and_one_whose_head_has_begun_are_asking() {
        let start = Instant::now();
        let mut connection = Connection::new(&NOTHING, start);
        let mut check = |millis, look: Look, expected| {
            let now = start + Duration::from_millis(millis);
            connection.judge(&look, now, &Limits::default());
            assert_eq!(connection.is_asking(&look, false, now), expected, "{millis} ms: {look:?}");
        };
        check(0, NOTHING, true);
        check(249, NOTHING, true);
        check(249, Look { peer: Peer::SentAll, ..NOTHING }, false);
        check(250, NOTHING, false);
        check(251, received(1), true);
        check(999, received(1), true);
        check(1000, phase(Phase::Working, 500), false);
        let idle = Look { moves: 2, ..received(500) };
        check(1001, idle, false);
        check(1002, Look { received: 501, ..idle }, true);
        check(1003, Look { received: 502, condemned: true, ..idle }, false);
        let last = Look { peer: Peer::SentAll, received: 502, ..idle };
        check(1004, last, true);
        let connection = Connection::new(&idle, start);
        let asks = |look, unread| connection.is_asking(&look, unread, start);
        assert!(asks(idle, true) && !asks(idle, false));
        assert!(!asks(Look { condemned: true, ..idle }, true));
    }

    #[test]
    fn at_the_end_silence_is_borne_for_five_seconds() {
        let limits = Limits::default().at_the_end();
        assert_eq!(limits, Limits { idle: Duration::from_secs(5), ..Limits::default() });
        let short = Limits { idle: Duration::from_millis(1), ..limits };
        assert_eq!(short.at_the_end(), short);
    }

    #[test]
    fn a_head_has_64_kib() {
        check(&[(0, received(65_536), Verdict::Keep)]);
        check(&[(0, received(65_537), Verdict::Cut(Reason::LargeHead))]);
    }

    #[test]
    fn requests_that_came_and_went_between_two_looks_are_no_head() {
        let look = |moves, bytes| Look { moves, ..received(bytes) };
        check(&[
            (0, look(2, 5_000_000), Verdict::Keep),
            (1, look(4, 9_000_000), Verdict::Keep),
            (75, look(4, 9_000_000), Verdict::Keep),
            (76, look(4, 9_000_000), Verdict::Cut(Reason::Idle)),
        ]);
    }

    #[test]
    fn work_takes_as_long_as_it_takes() {
        for phase in [Phase::Waiting, Phase::Working] {
            let look = self::phase(phase, 100);
            check(&[(0, look, Verdict::Keep), (100_000, look, Verdict::Keep)]);
        }
    }

    #[test]
    fn who_has_sent_all_is_asked_and_who_is_gone_has_left() {
        for known in [Phase::Waiting, Phase::Working] {
            let look = Look { peer: Peer::SentAll, ..phase(known, 100) };
            check(&[(0, look, Verdict::Ask), (1, look, Verdict::Ask)]);
        }
        for known in [Phase::Waiting, Phase::Reading, Phase::Working, Phase::Lingering] {
            check(&[(0, Look { peer: Peer::Gone, ..phase(known, 100) }, Verdict::Left)]);
        }
    }

    #[test]
    fn a_body_needs_a_pace_after_its_grace() {
        let reading = |bytes| phase(Phase::Reading, bytes);
        check(&[(0, reading(0), Verdict::Keep), (10, reading(0), Verdict::Keep)]);
        check(&[(0, reading(0), Verdict::Keep), (11, reading(0), Verdict::Late)]);
        check(&[
            (0, reading(100), Verdict::Keep),
            (11, reading(100 + 1025), Verdict::Keep),
            (20, reading(100 + 10_241), Verdict::Keep),
            (21, reading(100 + 10_241), Verdict::Late),
            (22, reading(100 + 10_241), Verdict::Keep),
        ]);
    }

    #[test]
    fn who_was_late_is_closed_after_the_answer() {
        let lingering = Look { condemned: true, ..phase(Phase::Lingering, 0) };
        check(&[
            (0, phase(Phase::Reading, 0), Verdict::Keep),
            (11, phase(Phase::Reading, 0), Verdict::Late),
            (12, lingering, Verdict::Close),
            (15, lingering, Verdict::Cut(Reason::Answered)),
        ]);
    }

    #[test]
    fn a_pause_of_ours_is_not_the_client_s() {
        let waiting = Look { waiting: true, ..phase(Phase::Reading, 100) };
        check(&[
            (0, waiting, Verdict::Keep),
            (200, waiting, Verdict::Keep),
            (210, phase(Phase::Reading, 100), Verdict::Keep),
            (211, phase(Phase::Reading, 100), Verdict::Late),
        ]);
        check(&[(0, waiting, Verdict::Keep), (300, waiting, Verdict::Late)]);
    }

    #[test]
    fn a_body_has_five_minutes() {
        let quick = |seconds: u64| phase(Phase::Reading, 100 + seconds * 1_000_000);
        check(&[
            (0, quick(0), Verdict::Keep),
            (299, quick(299), Verdict::Keep),
            (300, quick(300), Verdict::Late),
        ]);
    }

    #[test]
    fn the_rest_of_a_body_is_borne_for_a_moment() {
        let look = phase(Phase::Lingering, 1_000_000);
        check(&[
            (0, look, Verdict::Keep),
            (2, look, Verdict::Keep),
            (3, look, Verdict::Cut(Reason::Answered)),
        ]);
    }

    #[test]
    fn a_condemned_connection_is_closed_after_its_answer() {
        let look = |phase| Look { condemned: true, phase, moves: 1, ..NOTHING };
        check(&[
            (0, look(Some(Phase::Working)), Verdict::Keep),
            (9, look(Some(Phase::Lingering)), Verdict::Close),
            (11, look(Some(Phase::Lingering)), Verdict::Keep),
            (12, look(Some(Phase::Lingering)), Verdict::Cut(Reason::Answered)),
        ]);
        check(&[(0, look(None), Verdict::Close), (3, look(None), Verdict::Cut(Reason::Answered))]);
        let sent_all = Look { peer: Peer::SentAll, ..look(Some(Phase::Lingering)) };
        check(&[(0, sent_all, Verdict::Close), (1, sent_all, Verdict::Cut(Reason::Answered))]);
        for over in [None, Some(Phase::Over)] {
            let (none, more) = (look(over), Look { received: 1, ..look(over) });
            check(&[(0, none, Verdict::Close), (1, more, Verdict::Cut(Reason::Answered))]);
        }
        let rest = |received| Look { received, ..look(Some(Phase::Lingering)) };
        check(&[(0, rest(0), Verdict::Close), (1, rest(9), Verdict::Keep)]);
    }

    #[test]
    fn only_who_waits_for_its_client_can_be_spared() {
        let start = Instant::now();
        let mut connection = Connection::new(&NOTHING, start);
        connection.judge(&NOTHING, start, &Limits::default());
        assert_eq!(connection.spare(&NOTHING), Some((false, start)));
        connection.judge(&received(1), start, &Limits::default());
        assert_eq!(connection.spare(&received(1)), Some((true, start)));
        assert_eq!(connection.spare(&phase(Phase::Working, 1)), None);
        connection.is_too_many();
        assert_eq!(connection.spare(&NOTHING), None);
    }
}
