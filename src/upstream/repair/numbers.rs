//! The numbers in a rejection: counts of tokens, and which of them is the window.
//!
//! Pure. Invariant: the digits of a name or a decimal are no number.

use super::kinds::{self, Topic};
pub(super) use crate::backends::errors::numbers;

/// The size of the window and the length of a prompt that exceeds it, in tokens. Numbers below `least`
/// count nothing.
pub(super) fn find_window_and_prompt(text: &str, least: u64) -> Option<(u64, u64)> {
    let numbers: Vec<_> = numbers(text).into_iter().filter(|(_, it)| *it >= least).collect();
    let window = split_window(text, &numbers, 0).0;
    let all = || numbers.iter().map(|(_, number)| *number);
    let prompt = all().max()?;
    let window = window.filter(|window| *window < prompt).or(all().min())?;
    (window < prompt).then_some((window, prompt))
}

/// The size of the window, and the numbers that are neither it nor the limit that was asked for.
pub(super) fn split_window(
    text: &str,
    numbers: &[(usize, u64)],
    asked: u64,
) -> (Option<u64>, Vec<u64>) {
    let others = |window: Option<u64>| {
        let all = numbers.iter().map(|(_, number)| *number);
        all.filter(|number| *number != asked && Some(*number) != window).collect()
    };
    // "prompt + limit > window": the largest number that is no sum.
    if text.contains(" + ") {
        let rest: Vec<u64> = others(None);
        let is_sum = |number: u64| rest.iter().any(|it| it.checked_add(asked) == Some(number));
        let window = rest.iter().copied().filter(|number| !is_sum(*number)).max();
        return (window, others(window));
    }
    let window = kinds::phrases(Topic::Window).iter().find_map(|words| {
        let end = text.find(words.as_str())? + words.len();
        numbers.iter().find(|(at, _)| *at >= end).map(|(_, number)| *number)
    });
    (window, others(window))
}
