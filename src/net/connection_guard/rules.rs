//! The rules by which connections are closed.
//!
//! Pure: what the kernel and the registry know of one connection comes in with the time of the scan, a
//! `Verdict` comes out. `ConnectionState` is what is remembered of a connection between scans.
//! Invariant: a connection is never closed while its request is being worked on, however long it takes.

use std::time::{Duration, Instant};

use super::registry::RequestPhase;

/// How long a new connection counts as active, because its first request is expected.
const NEW_CONNECTION_TIME: Duration = Duration::from_millis(250);

/// Longest time without a request during shutdown.
const SHUTDOWN_IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// A head of more bytes is unusual, and may exceed its limit before the next scan.
const LARGE_HEAD_BYTES: u64 = 8 * 1024;

/// Limits of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most open connections; above it, idle ones are closed.
    pub max_connections: usize,
    /// Most bytes of request bodies in memory; `None` for a share of the memory limit.
    pub max_held_memory: Option<usize>,
    /// Most bytes of a head, including a small body, which tiny_http reads along with it.
    pub max_head_bytes: u64,
    /// Longest time for a head, from its first byte.
    pub head_timeout: Duration,
    /// Longest time without a request.
    pub idle_timeout: Duration,
    /// Average bytes per second with which a body must arrive after `body_rate_grace`.
    pub min_body_rate: u64,
    /// How long a body may be slower than `min_body_rate`, from its start and from each time that this
    /// proxy was slow to read it.
    pub body_rate_grace: Duration,
    /// Longest time for a whole body, unless it is passed on while it is read.
    pub body_timeout: Duration,
    /// Longest time for the rest of an unread body, and for the client to close a connection that this
    /// proxy has half-closed.
    pub linger_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_held_memory: None,
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
    /// The limits during shutdown.
    pub(super) fn for_shutdown(self) -> Self {
        Self { idle_timeout: self.idle_timeout.min(SHUTDOWN_IDLE_TIMEOUT), ..self }
    }
}

/// Why the guard closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CutReason {
    /// Its head is too large.
    LargeHead,
    /// Its head takes too long.
    SlowHead,
    /// It had no request for too long.
    Idle,
    /// Its body takes too long.
    SlowBody,
    /// There are too many connections.
    TooMany,
    /// Its last response was sent.
    Answered,
}

impl CutReason {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 6] = [
        Self::LargeHead,
        Self::SlowHead,
        Self::Idle,
        Self::SlowBody,
        Self::TooMany,
        Self::Answered,
    ];

    /// Its name in the log and in `/metrics`.
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

/// The client's side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerState {
    /// The client may still send.
    Open,
    /// The client has finished sending. Only a byte sent to it tells whether it still reads.
    HalfClosed,
    /// The client has closed or reset the connection.
    Closed,
}

/// What the guard has to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// Shut it down.
    Cut(CutReason),
    /// Stop reading its body; the response tells the client why.
    LateBody,
    /// Shut down the write side.
    HalfClose,
    /// Cancel its requests: the client has disconnected.
    Disconnected,
    /// Find out whether the client has disconnected, by sending it a byte.
    Probe,
}

/// What one scan sees of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Observation {
    pub peer: PeerState,
    /// Bytes received since it was opened, without those known to be unread.
    pub received: u64,
    /// Whether a body is being read and some of it waits to be read.
    pub has_unread: bool,
    /// Changes whenever a request begins or ends.
    pub generation: u64,
    /// How far the oldest request in flight is; `None` without one.
    pub phase: Option<RequestPhase>,
    /// Whether the connection closes after the current response.
    pub closing: bool,
}

/// What is remembered of a connection between scans.
#[derive(Debug)]
pub(super) struct ConnectionState {
    generation: u64,
    phase: Option<RequestPhase>,
    /// Value of [`Observation::received`] before the current head or body.
    received_before: u64,
    /// Start of the current state: idle, head, body (or its last pause), lingering.
    since: Instant,
    /// Whether a head has begun to arrive.
    head_started: bool,
    /// Start of the current body.
    body_since: Instant,
    /// Whether the body was found late.
    is_late: bool,
    half_closed: bool,
    cut: bool,
}

impl ConnectionState {
    pub(super) fn new(observation: &Observation, now: Instant) -> Self {
        Self {
            generation: observation.generation,
            phase: None,
            // Bytes received before the first scan are a head, unless there was a request.
            received_before: if observation.generation == 0 { 0 } else { observation.received },
            since: now,
            head_started: false,
            body_since: now,
            is_late: false,
            half_closed: false,
            cut: false,
        }
    }

    /// Judges what a scan sees.
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
            Some(RequestPhase::Draining | RequestPhase::Drained) => {
                cut_if(self.elapsed(now) >= limits.linger_timeout, CutReason::Answered)
            }
            Some(RequestPhase::Reading | RequestPhase::Passing) if self.is_late => Verdict::Keep,
            Some(RequestPhase::Reading | RequestPhase::Passing) => {
                self.judge_body(observation, now, limits)
            }
            Some(RequestPhase::Waiting | RequestPhase::Working) => match observation.peer {
                PeerState::HalfClosed => Verdict::Probe,
                PeerState::Open | PeerState::Closed => Verdict::Keep,
            },
        };
        self.is_late |= verdict == Verdict::LateBody;
        self.cut |= matches!(verdict, Verdict::Cut(_));
        verdict
    }

    /// Order in which idle connections are closed if there are too many: first those without a
    /// half-sent head, and among them the one idle for longest. `None` while it has a request.
    pub(super) fn shed_priority(&self, observation: &Observation) -> Option<(bool, Instant)> {
        let is_idle = observation.phase.is_none() && !self.cut;
        is_idle.then_some((self.head_started, self.since))
    }

    /// Whether a request is arriving: its head has begun, or has arrived and waits for a thread of
    /// tiny_http (`has_unread`), or the connection is so new that its first request is expected.
    pub(super) fn is_active(
        &self,
        observation: &Observation,
        has_unread: bool,
        now: Instant,
    ) -> bool {
        let is_new = observation.generation == 0
            && observation.peer == PeerState::Open
            && self.elapsed(now) < NEW_CONNECTION_TIME;
        observation.phase.is_none()
            && !observation.closing
            && !self.cut
            && (self.head_started || has_unread || is_new)
    }

    /// Whether nothing happens on the connection: it has no request, and no part of one.
    pub(super) fn is_at_rest(&self, observation: &Observation) -> bool {
        observation.phase.is_none()
            && observation.peer == PeerState::Open
            && !observation.closing
            && !self.cut
            && !self.head_started
    }

    /// Whether a head is arriving that may become too large before the next scan.
    pub(super) fn is_head_growing(&self, observation: &Observation) -> bool {
        let grown = observation.received.saturating_sub(self.received_before);
        observation.phase.is_none() && !self.cut && grown > LARGE_HEAD_BYTES
    }

    /// Notes that the connection was closed because there are too many.
    pub(super) fn mark_cut(&mut self) {
        self.cut = true;
    }

    fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Judges a connection without a request.
    fn judge_idle(&mut self, observation: &Observation, now: Instant, limits: &Limits) -> Verdict {
        let head = observation.received.saturating_sub(self.received_before);
        if head > limits.max_head_bytes {
            return Verdict::Cut(CutReason::LargeHead);
        }
        if head > 0 && !self.head_started {
            (self.head_started, self.since) = (true, now);
        }
        if self.head_started {
            cut_if(self.elapsed(now) >= limits.head_timeout, CutReason::SlowHead)
        } else {
            cut_if(self.elapsed(now) >= limits.idle_timeout, CutReason::Idle)
        }
    }

    /// Judges a connection whose body is being read. While received bytes wait to be read, the proxy is
    /// slow and not the client.
    fn judge_body(&mut self, observation: &Observation, now: Instant, limits: &Limits) -> Verdict {
        let is_bounded = observation.phase == Some(RequestPhase::Reading);
        if is_bounded && now.saturating_duration_since(self.body_since) >= limits.body_timeout {
            return Verdict::LateBody;
        }
        if observation.has_unread {
            (self.received_before, self.since) = (observation.received, now);
            return Verdict::Keep;
        }
        let millis = self.elapsed(now).saturating_sub(limits.body_rate_grace).as_millis();
        let required = u128::from(limits.min_body_rate) * millis / 1000;
        let received = observation.received.saturating_sub(self.received_before);
        if millis > 0 && u128::from(received) <= required {
            Verdict::LateBody
        } else {
            Verdict::Keep
        }
    }

    /// Judges a connection that closes after its current response.
    fn judge_closing(
        &mut self,
        observation: &Observation,
        now: Instant,
        limits: &Limits,
    ) -> Verdict {
        if self.phase.is_some_and(RequestPhase::is_active) {
            return Verdict::Keep;
        }
        let is_over = self.phase != Some(RequestPhase::Draining);
        if !self.half_closed {
            (self.half_closed, self.since) = (true, now);
            return Verdict::HalfClose;
        }
        // The client has finished sending, or sends another request.
        let is_done = observation.peer == PeerState::HalfClosed
            || (is_over && observation.received > self.received_before);
        cut_if(is_done || self.elapsed(now) >= limits.linger_timeout, CutReason::Answered)
    }
}

fn cut_if(condition: bool, reason: CutReason) -> Verdict {
    if condition { Verdict::Cut(reason) } else { Verdict::Keep }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Observations of one connection, each with its time in seconds and its verdict.
    #[track_caller]
    fn check(scans: &[(u64, Observation, Verdict)]) {
        let start = Instant::now();
        let mut connection = ConnectionState::new(&scans[0].1, start);
        for (index, (seconds, observation, expected)) in scans.iter().enumerate() {
            let now = start + Duration::from_secs(*seconds);
            let found = connection.judge(observation, now, &Limits::default());
            assert_eq!(found, *expected, "scan {index} at {seconds} s: {observation:?}");
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
    fn who_has_no_request_and_no_part_of_one_is_at_rest() {
        let fresh = ConnectionState::new(&NOTHING, Instant::now());
        assert!(fresh.is_at_rest(&NOTHING));
        for busy in [
            phase(RequestPhase::Working, 0),
            Observation { peer: PeerState::HalfClosed, ..NOTHING },
            Observation { closing: true, ..NOTHING },
        ] {
            assert!(!fresh.is_at_rest(&busy), "{busy:?}");
        }
        let mut cut = ConnectionState::new(&NOTHING, Instant::now());
        cut.cut = true;
        assert!(!cut.is_at_rest(&NOTHING));
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
    fn a_body_that_is_passed_on_has_all_the_time_that_it_uses() {
        let passing = |seconds: u64| phase(RequestPhase::Passing, 100 + seconds * 2048);
        check(&[
            (0, passing(0), Verdict::Keep),
            (300, passing(300), Verdict::Keep),
            (3000, passing(3000), Verdict::Keep),
            (9000, passing(3000), Verdict::LateBody),
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
