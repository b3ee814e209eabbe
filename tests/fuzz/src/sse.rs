//! Bytes to events: the same ones wherever the bytes are cut, in bounded memory.

use ollama_openai_proxy::api::wire::sse::{Decoder, Event};

use super::mutate::Dice;

/// Words of the grammar.
pub const WORDS: &[&str] = &[
    "data: ", "data:", "data", "event: error\n", "event: ", "error: ", "\n\n", "\r\n\r\n", "\r\r",
    "\r\n", "\n", "\r", "\u{feff}", ": comment\n", "[DONE]", "{", "{}\n", "id: 1\n", "retry: 5\n",
];

/// What came out: the events, and whether an error ended them.
type Outcome = (Vec<(bool, Vec<u8>)>, bool);

fn take(decoder: &mut Decoder, outcome: &mut Outcome, limit: usize) {
    while !outcome.1 {
        match decoder.next_event() {
            Ok(Some(Event::Data(data))) => outcome.0.push((false, data.to_vec())),
            Ok(Some(Event::Error(data))) => outcome.0.push((true, data.to_vec())),
            Ok(None) => return,
            Err(error) => {
                assert_eq!(error.status(), Some(502));
                assert!(decoder.next_event().is_err(), "it stays at the error");
                outcome.1 = true;
            }
        }
        if let Some((_, data)) = outcome.0.last() {
            assert!(data.len() <= limit, "an event of {} bytes", data.len());
        }
    }
}

fn decode(data: &[u8], limit: usize, mut cut: impl FnMut() -> usize) -> Outcome {
    let mut decoder = Decoder::with_limit(limit);
    let mut outcome = Outcome::default();
    let mut rest = data;
    while !rest.is_empty() && !outcome.1 {
        let (piece, behind) = rest.split_at(cut().clamp(1, rest.len()));
        decoder.push(piece);
        take(&mut decoder, &mut outcome, limit);
        rest = behind;
        // A line and what gathers of an event, each in a buffer that may be half consumed.
        let most = 4 * limit + 2 * piece.len() + 16;
        assert!(
            outcome.1 || decoder.buffered_len() <= most,
            "{} bytes are held",
            decoder.buffered_len()
        );
    }
    decoder.finish();
    take(&mut decoder, &mut outcome, limit);
    assert!(outcome.1 || !decoder.has_pending(), "something stays behind");
    outcome
}

/// Any body, with three limits.
pub fn sse(data: &[u8]) {
    let limit = [8, 64, 1 << 20][data.len() % 3];
    let whole = decode(data, limit, || usize::MAX);
    let bytes = decode(data, limit, || 1);
    assert_eq!(whole, bytes, "byte by byte");
    let mut dice = Dice::of(data);
    let pieces = decode(data, limit, || dice.below(24) + 1);
    assert_eq!(whole, pieces, "in pieces");
    if !data.contains(&b'\r') {
        for end in [b"\r".as_slice(), b"\r\n"] {
            let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
            assert_eq!(decode(&lines.join(end), limit, || 7), whole, "with other line ends");
        }
    }
}
