//! The known name that is nearest to one that is not known.
//!
//! Pure. The distance is Levenshtein's: the fewest characters to insert, remove or replace.

/// `did you mean NAME?`, if a known name is near enough to be meant.
pub fn suggest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(name, known).map(|nearest| format!("did you mean {nearest}?"))
}

/// The known name that is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = normalize(name);
    let measure = |known: &'a str| (distance(&wanted, &normalize(known)), known);
    let (distance, nearest) =
        known.into_iter().map(measure).min_by_key(|(distance, _)| *distance)?;
    let longest = wanted.len().max(nearest.len());
    (distance * 2 <= longest).then_some(nearest)
}

/// In lower case, and with one kind of separator.
fn normalize(name: &str) -> Vec<char> {
    let plain = |c: char| if matches!(c, '-' | '.' | ' ') { '_' } else { c.to_ascii_lowercase() };
    name.chars().take(100).map(plain).collect()
}

/// A name that is a whole part of the other one is near: `url` of `base_url`.
fn distance(one: &[char], other: &[char]) -> usize {
    let is_part = |part: &[char], whole: &[char]| {
        part.len() >= 3 && whole.split(|c| *c == '_').any(|word| word == part)
    };
    if one != other && (is_part(one, other) || is_part(other, one)) {
        return 1;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, c) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, d) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(c != d);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_changes_are_counted() {
        let check = |one: &str, other: &str, expected: usize| {
            let measured = distance(&normalize(one), &normalize(other));
            assert_eq!(measured, expected, "{one} {other}");
            assert_eq!(distance(&normalize(other), &normalize(one)), expected, "{other} {one}");
        };
        check("", "", 0);
        check("", "abc", 3);
        check("kitten", "sitting", 3);
        check("api-key", "API_KEY", 0);
        check("api_kye", "api_key", 2);
    }

    #[test]
    fn the_nearest_name_is_told_if_it_is_near() {
        let known = ["name", "base_url", "api_key", "api_key_file", "max_parallel"];
        let check = |name: &str, expected: Option<&str>| {
            let expected = expected.map(|it| format!("did you mean {it}?"));
            assert_eq!(suggest(name, known), expected, "{name}");
        };
        check("nmae", Some("name"));
        check("bas_url", Some("base_url"));
        check("url", Some("base_url"));
        check("apikey", Some("api_key"));
        check("api-key-fil", Some("api_key_file"));
        check("maxparallel", Some("max_parallel"));
        check("colour", None);
        check("zzzzzzzzzzzz", None);
        assert_eq!(suggest("x", []), None);
    }
}
