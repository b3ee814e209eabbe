//! When a connection has to go.
//!
//! Pure: what the kernel and the registry know of one connection comes in with the time of the look,
//! a `Verdict` comes out. A `Connection` is what is remembered of it between two looks.
//! Invariant: a connection whose request is being worked on is never cut, however long that takes.

use std::time::{Duration, Instant};

use super::registry::RequestPhase;

/// How long a new connection is expected to ask something, where it matters whether it will.
const NEW_CONNECTION_TIME: Duration = Duration::from_millis(250);

/// How long a connection may be kept without a request by a server that is to end.
const SHUTDOWN_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of a head that most never have.
const LARGE_HEAD_BYTES: u64 = 8 * 1024;

/// What a connection may do, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub max_connections: usize,
    /// Bytes of bodies that all together may be held at once; `None` for what memory allows.
    pub max_body_memory: Option<usize>,
    /// Bytes of a head, those of a small body included, which tiny_http reads along with it.
    pub max_head_bytes: u64,
    /// How long a head may take from its first byte.
    pub head_timeout: Duration,
    /// How long a connection may be kept without a request.
    pub idle_timeout: Duration,
    /// Bytes a second that a body must come with, on the average,
    pub min_body_rate: u64,
    /// after this time, and after each pause that was ours.
    pub body_rate_grace: Duration,
    /// How long a body may take altogether.
    pub body_timeout: Duration,
    /// How long the rest of an unread body, or a connection that we have closed, is borne.
    pub linger_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_body_memory: None,
            max_head_bytes: 64 * 1024,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            min_body_rate: 1024,
            body_rate_grace: Duration::from_secs(10),
            body_timeout: Duration::from_secs(300),
            linger_timeout: Duration::from_secs(3),
        }
    }
}

impl Limits {
    /// Those of a server that is to end.
    pub(super) fn for_shutdown(self) -> Self {
        Self { idle_timeout: self.idle_timeout.min(SHUTDOWN_IDLE_TIMEOUT), ..self }
    }
}

/// Why a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CutReason {
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

impl CutReason {
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
    pub fn as_str(self) -> &'static str {
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
pub(super) enum PeerState {
    /// It may still send.
    Open,
    /// It sends no more. Whether it still reads only a byte to it can tell.
    HalfClosed,
    /// It is gone.
    Closed,
}

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// It is shut down.
    Cut(CutReason),
    /// No more of its body is read; it is told why.
    LateBody,
    /// It is told that nothing more will come.
    HalfClose,
    /// Its client has left.
    Disconnected,
    /// Its client may have left: a byte will tell.
    Probe,
}

/// What one look at a connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observation {
    pub peer: PeerState,
    /// Bytes received, and taken as far as that is known, since it was opened.
    pub received: u64,
    /// Whether bytes wait that we have not taken, while a body is read.
    pub has_unread: bool,
    /// Changes whenever a request begins or ends.
    pub generation: u64,
    /// How far the oldest of its requests is; `None` when none is in hand.
    pub phase: Option<RequestPhase>,
    pub closing: bool,
}

/// What is remembered of a connection.
#[derive(Debug)]
pub(super) struct ConnectionState {
    generation: u64,
    phase: Option<RequestPhase>,
    /// Bytes received up to the head that is awaited, or the body that is read.
    received_before: u64,
    /// Since when what we are at now lasts: silence, a head, a body, a lingering.
    since: Instant,
    /// Whether a head has begun.
    head_started: bool,
    /// When the body that is read began.
    body_since: Instant,
    /// Whether it was told that its body is late.
    is_late: bool,
    half_closed: bool,
    cut: bool,
}

impl ConnectionState {
    pub(super) fn new(observation: &Observation, now: Instant) -> Self {
        Self {
            generation: observation.generation,
            phase: None,
            // What came before the first look was a head, unless there was a request already.
            received_before: if observation.generation == 0 { 0 } else { observation.received },
            since: now,
            head_started: false,
            body_since: now,
            is_late: false,
            half_closed: false,
            cut: false,
        }
    }

    /// Judges what a look shows.
    pub(super) fn judge(
        &mut self,
        observation: &Observation,
        now: Instant,
        limits: &Limits,
    ) -> Verdict {
        if self.cut {
            return Verdict::Keep;
        }
        if observation.peer == PeerState::Closed {
            return Verdict::Disconnected;
        }
        if (self.generation, self.phase) != (observation.generation, observation.phase) {
            (self.generation, self.phase) = (observation.generation, observation.phase);
            (self.received_before, self.since, self.body_since) = (observation.received, now, now);
            self.head_started = false;
        }
        let verdict = match observation.phase {
            _ if observation.closing => self.judge_closing(observation, now, limits),
            None => self.judge_idle(observation, now, limits),
            Some(RequestPhase::Draining | RequestPhase::Drained)
                if self.elapsed(now) >= limits.linger_timeout =>
            {
                Verdict::Cut(CutReason::Answered)
            }
            Some(RequestPhase::Draining | RequestPhase::Drained) => Verdict::Keep,
            Some(RequestPhase::Reading) if self.is_late => Verdict::Keep,
            Some(RequestPhase::Reading) => self.judge_body(observation, now, limits),
            Some(RequestPhase::Waiting | RequestPhase::Working)
                if observation.peer == PeerState::HalfClosed =>
            {
                Verdict::Probe
            }
            Some(RequestPhase::Waiting | RequestPhase::Working) => Verdict::Keep,
        };
        self.is_late |= verdict == Verdict::LateBody;
        self.cut |= matches!(verdict, Verdict::Cut(_));
        verdict
    }

    /// Whether it waits for its client, and since when; those with a half-sent head come after all
    /// others.
    pub(super) fn shed_priority(&self, observation: &Observation) -> Option<(bool, Instant)> {
        let spare = observation.phase.is_none() && !self.cut;
        spare.then_some((self.head_started, self.since))
    }

    /// Whether a request is on its way on it, as far as one can tell: it has begun to come, or the
    /// connection is so new that its first one is to be expected. `unread` is whether something has
    /// come that nobody has taken: tiny_http may have no thread for it yet.
    pub(super) fn is_active(
        &self,
        observation: &Observation,
        has_unread: bool,
        now: Instant,
    ) -> bool {
        let new = observation.generation == 0
            && observation.peer == PeerState::Open
            && self.elapsed(now) < NEW_CONNECTION_TIME;
        observation.phase.is_none()
            && !observation.closing
            && !self.cut
            && (self.head_started || has_unread || new)
    }

    /// Whether a head is on its way that may become too large before the next look.
    pub(super) fn is_head_growing(&self, observation: &Observation) -> bool {
        let grown = observation.received.saturating_sub(self.received_before);
        observation.phase.is_none() && !self.cut && grown > LARGE_HEAD_BYTES
    }

    /// It is one too many.
    pub(super) fn mark_cut(&mut self) {
        self.cut = true;
    }

    fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// No request is in hand.
    fn judge_idle(&mut self, observation: &Observation, now: Instant, limits: &Limits) -> Verdict {
        let head = observation.received.saturating_sub(self.received_before);
        if head > limits.max_head_bytes {
            return Verdict::Cut(CutReason::LargeHead);
        }
        if head > 0 && !self.head_started {
            (self.head_started, self.since) = (true, now);
        }
        match self.head_started {
            false if self.elapsed(now) >= limits.idle_timeout => Verdict::Cut(CutReason::Idle),
            true if self.elapsed(now) >= limits.head_timeout => Verdict::Cut(CutReason::SlowHead),
            _ => Verdict::Keep,
        }
    }

    /// A body is being read. A client that cannot send because we do not take is not to blame.
    fn judge_body(&mut self, observation: &Observation, now: Instant, limits: &Limits) -> Verdict {
        if now.saturating_duration_since(self.body_since) >= limits.body_timeout {
            return Verdict::LateBody;
        }
        if observation.has_unread {
            (self.received_before, self.since) = (observation.received, now);
            return Verdict::Keep;
        }
        let counts = self.elapsed(now).saturating_sub(limits.body_rate_grace).as_millis();
        let wanted = u128::from(limits.min_body_rate) * counts / 1000;
        let came = observation.received.saturating_sub(self.received_before);
        if counts > 0 && u128::from(came) <= wanted { Verdict::LateBody } else { Verdict::Keep }
    }

    /// The last answer has been, or is being, given.
    fn judge_closing(
        &mut self,
        observation: &Observation,
        now: Instant,
        limits: &Limits,
    ) -> Verdict {
        let over = matches!(self.phase, None | Some(RequestPhase::Drained));
        let answered = over || self.phase == Some(RequestPhase::Draining);
        match (answered, self.half_closed) {
            // The answer is on its way.
            (false, _) => Verdict::Keep,
            (true, false) => {
                (self.half_closed, self.since) = (true, now);
                Verdict::HalfClose
            }
            // Nothing more comes, or nothing that is wanted.
            (true, true)
                if observation.peer == PeerState::HalfClosed
                    || (over && observation.received > self.received_before) =>
            {
                Verdict::Cut(CutReason::Answered)
            }
            (true, true) if self.elapsed(now) >= limits.linger_timeout => {
                Verdict::Cut(CutReason::Answered)
            }
            (true, true) => Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at one connection, each with its time in seconds, and the verdicts they bring.
    #[track_caller]
    fn check(looks: &[(u64, Observation, Verdict)]) {
        let start = Instant::now();
        let mut connection = ConnectionState::new(&looks[0].1, start);
        for (index, (seconds, look, expected)) in looks.iter().enumerate() {
            let now = start + Duration::from_secs(*seconds);
            let found = connection.judge(look, now, &Limits::default());
            assert_eq!(found, *expected, "look {index} at {seconds} s: {look:?}");
        }
    }

    const NOTHING: Observation = Observation {
        peer: PeerState::Open,
        received: 0,
        has_unread: false,
        generation: 0,
        phase: None,
        closing: false,
    };

    fn received(bytes: u64) -> Observation {
        Observation { received: bytes, ..NOTHING }
    }

    fn phase(phase: RequestPhase, received: u64) -> Observation {
        Observation { phase: Some(phase), generation: 1, received, ..NOTHING }
    }

    #[test]
    fn silence_is_borne_for_75_seconds() {
        check(&[(0, NOTHING, Verdict::Keep), (74, NOTHING, Verdict::Keep)]);
        check(&[(0, NOTHING, Verdict::Keep), (75, NOTHING, Verdict::Cut(CutReason::Idle))]);
        let after = Observation { generation: 2, ..received(500) };
        check(&[
            (0, phase(RequestPhase::Working, 500), Verdict::Keep),
            (300, after, Verdict::Keep),
            (374, after, Verdict::Keep),
            (375, after, Verdict::Cut(CutReason::Idle)),
            (376, after, Verdict::Keep),
        ]);
    }

    #[test]
    fn a_head_has_10_seconds_from_its_first_byte() {
        check(&[
            (0, NOTHING, Verdict::Keep),
            (70, received(1), Verdict::Keep),
            (79, received(9), Verdict::Keep),
            (80, received(9), Verdict::Cut(CutReason::SlowHead)),
        ]);
        let again = |bytes| Observation { generation: 2, ..received(bytes) };
        check(&[
            (0, phase(RequestPhase::Working, 500), Verdict::Keep),
            (1, again(500), Verdict::Keep),
            (60, again(501), Verdict::Keep),
            (69, again(502), Verdict::Keep),
            (70, again(503), Verdict::Cut(CutReason::SlowHead)),
        ]);
    }

    #[test]
    fn a_new_connection_and_one_whose_head_has_begun_are_asking() {
        let start = Instant::now();
        let mut connection = ConnectionState::new(&NOTHING, start);
        let mut check = |millis, look: Observation, expected| {
            let now = start + Duration::from_millis(millis);
            connection.judge(&look, now, &Limits::default());
            assert_eq!(connection.is_active(&look, false, now), expected, "{millis} ms: {look:?}");
        };
        check(0, NOTHING, true);
        check(249, NOTHING, true);
        check(249, Observation { peer: PeerState::HalfClosed, ..NOTHING }, false);
        check(250, NOTHING, false);
        check(251, received(1), true);
        check(999, received(1), true);
        check(1000, phase(RequestPhase::Working, 500), false);
        let idle = Observation { generation: 2, ..received(500) };
        check(1001, idle, false);
        check(1002, Observation { received: 501, ..idle }, true);
        check(1003, Observation { received: 502, closing: true, ..idle }, false);
        let last = Observation { peer: PeerState::HalfClosed, received: 502, ..idle };
        check(1004, last, true);
        let connection = ConnectionState::new(&idle, start);
        let asks = |look, unread| connection.is_active(&look, unread, start);
        assert!(asks(idle, true) && !asks(idle, false));
        assert!(!asks(Observation { closing: true, ..idle }, true));
    }

    #[test]
    fn at_the_end_silence_is_borne_for_five_seconds() {
        let limits = Limits::default().for_shutdown();
        assert_eq!(limits, Limits { idle_timeout: Duration::from_secs(5), ..Limits::default() });
        let short = Limits { idle_timeout: Duration::from_millis(1), ..limits };
        assert_eq!(short.for_shutdown(), short);
    }

    #[test]
    fn a_head_has_64_kib() {
        check(&[(0, received(65_536), Verdict::Keep)]);
        check(&[(0, received(65_537), Verdict::Cut(CutReason::LargeHead))]);
    }

    #[test]
    fn requests_that_came_and_went_between_two_looks_are_no_head() {
        let look = |moves, bytes| Observation { generation: moves, ..received(bytes) };
        check(&[
            (0, look(2, 5_000_000), Verdict::Keep),
            (1, look(4, 9_000_000), Verdict::Keep),
            (75, look(4, 9_000_000), Verdict::Keep),
            (76, look(4, 9_000_000), Verdict::Cut(CutReason::Idle)),
        ]);
    }

    #[test]
    fn work_takes_as_long_as_it_takes() {
        for phase in [RequestPhase::Waiting, RequestPhase::Working] {
            let look = self::phase(phase, 100);
            check(&[(0, look, Verdict::Keep), (100_000, look, Verdict::Keep)]);
        }
    }

    #[test]
    fn who_has_sent_all_is_asked_and_who_is_gone_has_left() {
        for known in [RequestPhase::Waiting, RequestPhase::Working] {
            let look = Observation { peer: PeerState::HalfClosed, ..phase(known, 100) };
            check(&[(0, look, Verdict::Probe), (1, look, Verdict::Probe)]);
        }
        for known in [
            RequestPhase::Waiting,
            RequestPhase::Reading,
            RequestPhase::Working,
            RequestPhase::Draining,
        ] {
            check(&[(
                0,
                Observation { peer: PeerState::Closed, ..phase(known, 100) },
                Verdict::Disconnected,
            )]);
        }
    }

    #[test]
    fn a_body_needs_a_pace_after_its_grace() {
        let reading = |bytes| phase(RequestPhase::Reading, bytes);
        check(&[(0, reading(0), Verdict::Keep), (10, reading(0), Verdict::Keep)]);
        check(&[(0, reading(0), Verdict::Keep), (11, reading(0), Verdict::LateBody)]);
        check(&[
            (0, reading(100), Verdict::Keep),
            (11, reading(100 + 1025), Verdict::Keep),
            (20, reading(100 + 10_241), Verdict::Keep),
            (21, reading(100 + 10_241), Verdict::LateBody),
            (22, reading(100 + 10_241), Verdict::Keep),
        ]);
    }

    #[test]
    fn who_was_late_is_closed_after_the_answer() {
        let lingering = Observation { closing: true, ..phase(RequestPhase::Draining, 0) };
        check(&[
            (0, phase(RequestPhase::Reading, 0), Verdict::Keep),
            (11, phase(RequestPhase::Reading, 0), Verdict::LateBody),
            (12, lingering, Verdict::HalfClose),
            (15, lingering, Verdict::Cut(CutReason::Answered)),
        ]);
    }

    #[test]
    fn a_pause_of_ours_is_not_the_client_s() {
        let waiting = Observation { has_unread: true, ..phase(RequestPhase::Reading, 100) };
        check(&[
            (0, waiting, Verdict::Keep),
            (200, waiting, Verdict::Keep),
            (210, phase(RequestPhase::Reading, 100), Verdict::Keep),
            (211, phase(RequestPhase::Reading, 100), Verdict::LateBody),
        ]);
        check(&[(0, waiting, Verdict::Keep), (300, waiting, Verdict::LateBody)]);
    }

    #[test]
    fn a_body_has_five_minutes() {
        let quick = |seconds: u64| phase(RequestPhase::Reading, 100 + seconds * 1_000_000);
        check(&[
            (0, quick(0), Verdict::Keep),
            (299, quick(299), Verdict::Keep),
            (300, quick(300), Verdict::LateBody),
        ]);
    }

    #[test]
    fn the_rest_of_a_body_is_borne_for_a_moment() {
        let look = phase(RequestPhase::Draining, 1_000_000);
        check(&[
            (0, look, Verdict::Keep),
            (2, look, Verdict::Keep),
            (3, look, Verdict::Cut(CutReason::Answered)),
        ]);
    }

    #[test]
    fn a_condemned_connection_is_closed_after_its_answer() {
        let look = |phase| Observation { closing: true, phase, generation: 1, ..NOTHING };
        check(&[
            (0, look(Some(RequestPhase::Working)), Verdict::Keep),
            (9, look(Some(RequestPhase::Draining)), Verdict::HalfClose),
            (11, look(Some(RequestPhase::Draining)), Verdict::Keep),
            (12, look(Some(RequestPhase::Draining)), Verdict::Cut(CutReason::Answered)),
        ]);
        check(&[
            (0, look(None), Verdict::HalfClose),
            (3, look(None), Verdict::Cut(CutReason::Answered)),
        ]);
        let sent_all =
            Observation { peer: PeerState::HalfClosed, ..look(Some(RequestPhase::Draining)) };
        check(&[
            (0, sent_all, Verdict::HalfClose),
            (1, sent_all, Verdict::Cut(CutReason::Answered)),
        ]);
        for over in [None, Some(RequestPhase::Drained)] {
            let (none, more) = (look(over), Observation { received: 1, ..look(over) });
            check(&[(0, none, Verdict::HalfClose), (1, more, Verdict::Cut(CutReason::Answered))]);
        }
        let rest = |received| Observation { received, ..look(Some(RequestPhase::Draining)) };
        check(&[(0, rest(0), Verdict::HalfClose), (1, rest(9), Verdict::Keep)]);
    }

    #[test]
    fn only_who_waits_for_its_client_can_be_spared() {
        let start = Instant::now();
        let mut connection = ConnectionState::new(&NOTHING, start);
        connection.judge(&NOTHING, start, &Limits::default());
        assert_eq!(connection.shed_priority(&NOTHING), Some((false, start)));
        connection.judge(&received(1), start, &Limits::default());
        assert_eq!(connection.shed_priority(&received(1)), Some((true, start)));
        assert_eq!(connection.shed_priority(&phase(RequestPhase::Working, 1)), None);
        connection.mark_cut();
        assert_eq!(connection.shed_priority(&NOTHING), None);
    }
}
