//! Sorting, for lists that are short or rarely sorted.
//!
//! The standard library's sort is made anew for every type that it sorts, some eight kilobytes each
//! time. This one sorts places by way of one such function and then moves the items. It is stable.

use std::cmp::Ordering;
use std::mem;

/// Sorts the items so that each stands before those that compare greater.
pub fn sort_by<T>(items: &mut Vec<T>, compare: impl Fn(&T, &T) -> Ordering) {
    let places = places(items.len(), &|a, b| compare(&items[a], &items[b]));
    let mut before: Vec<_> = mem::take(items).into_iter().map(Some).collect();
    items.extend(places.into_iter().filter_map(|place| before[place].take()));
}

fn places(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<_> = (0..count).collect();
    places.sort_by(|a, b| compare(*a, *b));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_sorted_and_equals_keep_their_order() {
        let mut items: Vec<_> = (0..100_u32).map(|number| (number * 37 % 7, number)).collect();
        sort_by(&mut items, |a, b| b.0.cmp(&a.0));
        let mut expected: Vec<_> = (0..100_u32).map(|number| (number * 37 % 7, number)).collect();
        expected.sort_by_key(|item| std::cmp::Reverse(item.0));
        assert_eq!(items, expected);
        let mut none: Vec<u8> = Vec::new();
        sort_by(&mut none, Ord::cmp);
        assert!(none.is_empty());
    }
}
