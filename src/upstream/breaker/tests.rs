//! The breaker under a clock of the test's own.

use std::cell::Cell;

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A breaker with two retry slots, and its clock.
struct Bench {
    breaker: Breaker,
    start: Instant,
    now: Cell<Instant>,
}

impl Bench {
    fn new() -> Self {
        let start = Instant::now();
        Self { breaker: Breaker::new(Settings::default(), 16), start, now: Cell::new(start) }
    }

    fn at(&self, millis: u64) -> &Self {
        self.now.set(self.start + MS(millis));
        self
    }

    fn now(&self) -> Instant {
        self.now.get()
    }

    fn enter(&self, caller: Caller) -> Result<Permit<'_>, CircuitOpen> {
        self.breaker.try_acquire(caller, self.now())
    }

    /// An attempt that takes no time.
    fn fail(&self, caller: Caller) -> bool {
        self.enter(caller).expect("may try").record_failure("refused", self.now(), 0.0)
    }

    fn is(&self, circuit: CircuitState) -> &Self {
        assert_eq!(self.breaker.circuit_state(self.now()), circuit);
        self
    }

    /// Opened at 1000 ms.
    fn opened() -> Self {
        let bench = Self::new();
        (0..4).for_each(|_| assert!(!bench.fail(Caller::New)));
        assert!(bench.at(1000).fail(Caller::New));
        bench
    }
}

#[test]
fn failures_in_a_row_open_it_and_nobody_new_may_try() {
    let bench = Bench::opened();
    bench.is(CircuitState::Open);
    let refused = bench.at(1400).enter(Caller::New).expect_err("it is open");
    assert_eq!((refused.reason.as_str(), refused.retry_in), ("refused", MS(600)));
    bench.at(2000).is(CircuitState::HalfOpen);
}

#[test]
fn many_failures_in_one_moment_do_not() {
    let bench = Bench::new();
    (0..256).for_each(|_| assert!(!bench.fail(Caller::New)));
    assert!(!bench.at(999).fail(Caller::New));
    bench.is(CircuitState::Closed);
    assert!(bench.at(1000).fail(Caller::New));
}

#[test]
fn what_took_long_to_fail_has_gone_on_for_long() {
    let bench = Bench::new();
    let passes: Vec<_> = (0..5).map(|_| bench.enter(Caller::New).expect("closed")).collect();
    let later = bench.start + MS(10_000);
    let opened: Vec<_> =
        passes.into_iter().map(|pass| pass.record_failure("no answer", later, 0.0)).collect();
    assert_eq!(opened, [false, false, false, false, true]);
    bench.at(10_000).is(CircuitState::Open);
}

#[test]
fn an_answer_between_them_begins_the_count_anew() {
    let bench = Bench::new();
    let slow: Vec<_> = (0..5).map(|_| bench.enter(Caller::New).expect("closed")).collect();
    bench.at(9500);
    assert!(!bench.enter(Caller::New).expect("closed").record_success(bench.now()));
    let later = bench.start + MS(10_000);
    // These attempts began before the response, so their failures do not count as a long outage.
    slow.into_iter().for_each(|pass| assert!(!pass.record_failure("no answer", later, 0.0)));
    bench.is(CircuitState::Closed);
}

#[test]
fn a_request_alone_with_its_default_retries_never_opens_it() {
    let bench = Bench::new();
    for moment in [0, 1000, 3000, 7000] {
        assert!(!bench.at(moment).fail(Caller::New));
    }
    // Another request, much later.
    for moment in [0, 1000, 3000, 7000] {
        assert!(!bench.at(100_000 + moment).fail(Caller::New));
    }
    bench.is(CircuitState::Closed);
}

#[test]
fn a_request_alone_keeps_trying_at_its_own_pace_while_it_is_open() {
    let bench = Bench::opened();
    for moment in [2000, 4000, 8000] {
        let _seat = bench.breaker.try_acquire_retry_slot().expect("nobody else waits");
        assert!(!bench.at(moment).fail(Caller::Retrying), "{moment}");
    }
    // The cooldown for new requests is 8 s by now.
    bench.at(15_999).is(CircuitState::Open);
    let pass = bench.at(12_000).enter(Caller::Retrying).expect("may try");
    assert!(pass.record_success(bench.now()));
    bench.is(CircuitState::Closed);
}

#[test]
fn the_pause_doubles_up_to_its_bound_and_begins_small_again() {
    let bench = Bench::opened();
    let mut now = 1000;
    for pause in [1000, 2000, 4000, 8000, 10_000, 10_000] {
        assert!(bench.at(now + pause - 1).enter(Caller::New).is_err(), "{pause}");
        now += pause;
        assert!(!bench.at(now).fail(Caller::New));
    }
    bench.at(now + 10_000);
    assert!(bench.enter(Caller::New).expect("may try").record_success(bench.now()));
    let again = now + 20_000;
    (0..4).for_each(|_| assert!(!bench.at(again).fail(Caller::New)));
    assert!(bench.at(again + 1000).fail(Caller::New));
    bench.at(again + 2000).is(CircuitState::HalfOpen);
}

#[test]
fn jitter_only_shortens_the_pause() {
    let bench = Bench::new();
    (0..4).for_each(|_| assert!(!bench.fail(Caller::New)));
    bench.at(1000);
    assert!(bench.enter(Caller::New).expect("closed").record_failure("x", bench.now(), 0.999));
    bench.at(1500).is(CircuitState::Open);
    bench.at(1501).is(CircuitState::HalfOpen);
}

#[test]
fn one_at_a_time_tries() {
    let bench = Bench::opened();
    bench.at(2000);
    let probe = bench.enter(Caller::New).expect("the pause is over");
    bench.is(CircuitState::HalfOpen);
    assert!(bench.enter(Caller::New).is_err());
    assert!(bench.enter(Caller::Retrying).is_err());
    assert!(probe.record_success(bench.now()));
    assert!(bench.enter(Caller::New).is_ok());
}

#[test]
fn a_probe_that_is_dropped_lets_the_next_one_try() {
    let bench = Bench::opened();
    bench.at(2000);
    drop(bench.enter(Caller::New).expect("the pause is over"));
    bench.is(CircuitState::HalfOpen);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _probe = bench.enter(Caller::New).expect("given back");
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert!(bench.enter(Caller::New).expect("given back").record_success(bench.now()));
}

#[test]
fn a_probe_that_hangs_keeps_others_out_for_a_while_only_and_few_may_hang() {
    let breaker = Breaker::new(Settings::default(), 16);
    let start = Instant::now();
    let fail =
        |now| breaker.try_acquire(Caller::New, now).expect("closed").record_failure("x", now, 0.0);
    (0..4).for_each(|_| assert!(!fail(start)));
    assert!(fail(start + MS(1000)));
    let first = breaker.try_acquire(Caller::New, start + MS(2000)).expect("the pause is over");
    assert!(breaker.try_acquire(Caller::New, start + MS(11_999)).is_err());
    let second = breaker.try_acquire(Caller::New, start + MS(12_000)).expect("the lease is over");
    // Two retry slots allow two probes.
    assert!(breaker.try_acquire(Caller::New, start + MS(90_000)).is_err());
    // The second probe replaced the first one, whose failure therefore changes nothing.
    assert!(!first.record_failure("x", start + MS(90_000), 0.0));
    let third = breaker.try_acquire(Caller::New, start + MS(90_000)).expect("room again");
    assert!(second.record_success(start + MS(90_001)));
    assert_eq!(breaker.circuit_state(start + MS(90_001)), CircuitState::Closed);
    assert!(!third.record_failure("x", start + MS(90_002), 0.0));
    assert_eq!(breaker.circuit_state(start + MS(90_002)), CircuitState::Closed);
}

#[test]
fn failures_of_those_who_began_earlier_do_not_lengthen_the_pause() {
    let bench = Bench::new();
    let slow: Vec<_> = (0..20).map(|_| bench.enter(Caller::New).expect("closed")).collect();
    let later = bench.start + MS(10_000);
    for pass in slow {
        pass.record_failure("no answer", later, 0.0);
    }
    bench.at(10_999).is(CircuitState::Open);
    bench.at(11_000).is(CircuitState::HalfOpen);
}

#[test]
fn a_check_is_never_refused_and_its_answer_counts() {
    let bench = Bench::opened();
    assert!(!bench.fail(Caller::HealthCheck));
    bench.at(1999).is(CircuitState::Open);
    bench.at(2000).is(CircuitState::HalfOpen);
    let _probe = bench.enter(Caller::New).expect("the pause is over");
    assert!(bench.enter(Caller::HealthCheck).expect("a check").record_success(bench.now()));
    bench.is(CircuitState::Closed);
}

#[test]
fn an_answer_that_was_under_way_closes_it() {
    let bench = Bench::new();
    let slow = bench.enter(Caller::New).expect("closed");
    let fail = |now| {
        bench.breaker.try_acquire(Caller::New, now).expect("closed").record_failure("x", now, 0.0)
    };
    (0..4).for_each(|_| assert!(!fail(bench.start)));
    let later = bench.start + MS(1000);
    assert!(fail(later));
    assert!(slow.record_success(later));
    bench.at(1000).is(CircuitState::Closed);
}

#[test]
fn few_may_wait() {
    let bench = Bench::opened();
    let first = bench.breaker.try_acquire_retry_slot().expect("two seats");
    let _second = bench.breaker.try_acquire_retry_slot().expect("two seats");
    assert!(bench.breaker.try_acquire_retry_slot().is_none());
    drop(first);
    assert!(bench.breaker.try_acquire_retry_slot().is_some());
    assert!(
        Breaker::new(Settings::default(), 1).try_acquire_retry_slot().is_some(),
        "one at least"
    );
    assert_eq!(bench.breaker.min_retry_delay(bench.now()), Some(MS(500)));
    assert_eq!(Bench::new().breaker.min_retry_delay(bench.now()), None);
}
