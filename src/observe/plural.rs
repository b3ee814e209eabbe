//! Numbers with their nouns, for people.
//!
//! Pure. Invariant: a number other than 1 has the plural.

/// Such as `1 request` and `2 requests`.
pub fn count(number: usize, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_singular() {
        let told = [0, 1, 2].map(|number| count(number, "request"));
        assert_eq!(told, ["0 requests", "1 request", "2 requests"]);
    }
}
