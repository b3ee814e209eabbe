//! Finds the model's name in the beginning of a multipart form (RFC 7578).
//!
//! Reads no other part of the form, and never needs the whole of it.

use std::ops::Range;

use memchr::memmem::find;

/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// The value of the part `model`, and its range in the form.
pub fn find_model(form: &[u8]) -> Option<(String, Range<usize>)> {
    // The form starts with its delimiter, without a line break before it.
    let end = find(form, b"\r\n")?;
    let delimiter = [b"\r\n", &form[..end]].concat();
    let mut at = end + 2;
    loop {
        let head = at + find(&form[at..], b"\r\n\r\n")? + 4;
        let length = find(&form[head..], &delimiter)?;
        if is_model_part(&form[at..head]) {
            let place = head..head + length;
            let name = std::str::from_utf8(&form[place.clone()]).ok()?;
            return (length <= MAX_NAME_BYTES).then(|| (name.to_owned(), place));
        }
        at = head + length + delimiter.len() + 2;
        if at > form.len() {
            return None;
        }
    }
}

/// True if the head of a part names it `model`.
fn is_model_part(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.any(|(name, value)| {
        let mut parameters = value.split(';').map(str::trim);
        name.trim().eq_ignore_ascii_case("content-disposition")
            && parameters.any(|it| it == "name=\"model\"" || it == "name=model")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\n\
                        Content-Type: audio/wav\r\n\r\nRIFF\r\n\r\n--c name=\"model\"\r\n";

    #[test]
    fn the_model_is_found_behind_and_before_other_parts() {
        for place in ["name=\"model\"", "name=model"] {
            let part =
                format!("--b\r\ncontent-disposition: form-data; {place}\r\n\r\nwhisper-1\r\n");
            for form in [format!("{part}{FILE}"), format!("{FILE}{part}--b--\r\n")] {
                let (name, place) = find_model(form.as_bytes()).expect(&form);
                assert_eq!((name.as_str(), &form[place]), ("whisper-1", "whisper-1"));
            }
        }
    }

    #[test]
    fn what_is_not_there_or_not_whole_is_not_found() {
        let part = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n";
        let long = format!("{part}{}\r\n--b--", "x".repeat(MAX_NAME_BYTES + 1));
        for form in ["", "x", FILE, part, "--b--\r\n", &format!("{part}whisper"), &long] {
            assert_eq!(find_model(form.as_bytes()), None, "{form}");
        }
        assert_eq!(find_model(&[part.as_bytes(), b"\xff\r\n--b--"].concat()), None);
    }
}
