//! Every fixture is decoded whole, byte by byte, and cut at each position and each pair of
//! positions; the events must be the same each time.

use super::*;

/// An event with its own copy of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Data(String),
    Error(String),
}

fn data(text: &str) -> Owned {
    Owned::Data(text.to_owned())
}

fn error(text: &str) -> Owned {
    Owned::Error(text.to_owned())
}

/// All events that can be had now.
fn drain(decoder: &mut Decoder) -> Vec<Owned> {
    let mut events = Vec::new();
    while let Some(event) = decoder.next_event().expect("the fixture is under the limit") {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        events.push(match event {
            Event::Data(bytes) => Owned::Data(text(bytes)),
            Event::Error(bytes) => Owned::Error(text(bytes)),
        });
    }
    events
}

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Owned> {
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        events.extend(drain(&mut decoder));
    }
    decoder.finish();
    events.extend(drain(&mut decoder));
    assert!(!decoder.has_pending());
    assert_eq!(drain(&mut decoder), [], "nothing comes after the end");
    events
}

fn check(input: impl AsRef<[u8]>, expected: &[Owned]) {
    let input = input.as_ref();
    let case = String::from_utf8_lossy(input);
    assert_eq!(decode([input]), expected, "whole: {case:?}");
    assert_eq!(decode(input.chunks(1)), expected, "byte by byte: {case:?}");
    for first in 0..=input.len() {
        for second in first..=input.len() {
            let pieces = [&input[..first], &input[first..second], &input[second..]];
            assert_eq!(decode(pieces), expected, "cut at {first} and {second}: {case:?}");
        }
    }
}

/// Whether the events are there as soon as `input` was pushed, without the end being told.
fn check_prompt(input: &str, expected: &[Owned]) {
    let mut decoder = Decoder::new();
    let events: Vec<_> = input
        .as_bytes()
        .chunks(1)
        .flat_map(|byte| {
            decoder.push(byte);
            drain(&mut decoder)
        })
        .collect();
    assert_eq!(events, expected, "{input:?}");
}

#[test]
fn every_line_end_is_understood() {
    let expected = [data("{\"a\":1}"), data("two"), data("[DONE]")];
    for end in ["\n", "\r", "\r\n"] {
        let lines = ["data: {\"a\":1}", "", "data: two", "", "data: [DONE]", "", ""];
        check(lines.join(end), &expected);
    }
    check("data: a\r\n\ndata: b\n\rdata: c\r\r\ndata: d\r\r", &["a", "b", "c", "d"].map(data));
    check("data: a\n\r\ndata: b\r\n\rdata: c\n\n", &["a", "b", "c"].map(data));
}

#[test]
fn an_event_comes_with_the_first_byte_that_ends_it() {
    check_prompt("data: a\n\n", &[data("a")]);
    check_prompt("data: a\r\r", &[data("a")]);
    check_prompt("data: a\r\n\r", &[data("a")]);
    check_prompt("data: a\r\n\n", &[data("a")]);
    check_prompt("data: a\n\r", &[data("a")]);
    check_prompt("{\"a\":1}\r", &[data("{\"a\":1}")]);
    check_prompt("error: {}\n", &[error("{}")]);
    check_prompt("data: a\r\r\ndata: b\r\r", &[data("a"), data("b")]);
    check_prompt("data: a\r\n", &[]);
    check_prompt("data: a\n\ndata: b\n", &[data("a")]);
    check_prompt("{\"a\":1}", &[]);
}

#[test]
fn the_last_event_needs_no_blank_line() {
    check("data: a\n\ndata: b", &[data("a"), data("b")]);
    check("data: a\n\ndata: b\n", &[data("a"), data("b")]);
    check("data: a\r", &[data("a")]);
    check("event: error\ndata: a", &[error("a")]);
    check("data: a\ndata: b", &[data("a\nb")]);
    check("{\"a\":1}\n{\"b\":2}", &[data("{\"a\":1}"), data("{\"b\":2}")]);
    check("data: a\n{\"b\":2}", &[data("a"), data("{\"b\":2}")]);
    check("dat", &[]);
    check("event: error", &[]);
}

#[test]
fn one_blank_after_the_colon_is_dropped_and_all_others_are_kept() {
    check("data:a\n\ndata: b\n\ndata:  c \n\n", &[data("a"), data("b"), data(" c ")]);
    check("data: [DONE]  \t\n\n", &[data("[DONE]  \t")]);
    check("data:\ta:b: c\n\n", &[data("\ta:b: c")]);
    check("data:\n\ndata: \n\ndata\n\n", &[data(""), data(""), data("")]);
}

#[test]
fn data_lines_of_one_event_are_joined() {
    check(
        "data: {\ndata:  \"a\": 1\ndata: }\n\ndata: b\n\n",
        &[data("{\n \"a\": 1\n}"), data("b")],
    );
    check("data: a\ndata: b\n\ndata: c\ndata: d\n\n", &[data("a\nb"), data("c\nd")]);
    check("data: a\n: ping\ndata\nid: 7\ndata: c\n\n", &[data("a\n\nc")]);
}

#[test]
fn comments_and_other_fields_are_skipped() {
    check(": OPENROUTER PROCESSING\n\n:\n\n: keep-alive\ndata: a\n:\n\n", &[data("a")]);
    check("event: message\nid: 1\nretry: 3000\ndata: a\n\n", &[data("a")]);
    check("data: a\nid: 1\nretry: 3000\n\nid: 2\n\n", &[data("a")]);
    check("database: x\nDATA: y\n data: z\ndatum\nerrors: {}\n[1]\n\n", &[]);
    check("\n\r\n\r\n\n", &[]);
    check("", &[]);
}

#[test]
fn a_byte_order_mark_is_skipped_at_the_beginning_only() {
    check("\u{FEFF}data: a\n\n\u{FEFF}data: b\n\ndata: c\n\n", &[data("a"), data("c")]);
    check("\u{FEFF}\u{FEFF}data: a\n\n", &[]);
    check("\u{FEFF}{\"a\":1}\n", &[data("{\"a\":1}")]);
    check("\u{FEFF}", &[]);
    check(b"\xEF\xBB", &[]);
    check("\n\u{FEFF}data: a\n\n", &[]);
}

#[test]
fn characters_of_several_bytes_and_broken_ones_pass_through() {
    check("data: žluťoučký 🐎\n\n", &[data("žluťoučký 🐎")]);
    check("data: a\u{2028}b\u{85}c\n\n", &[data("a\u{2028}b\u{85}c")]);
    check(b"data: a\xFFb\n\n", &[data("a\u{FFFD}b")]);
}

#[test]
fn a_bare_line_of_json_is_an_event_by_itself() {
    check(
        "{\"a\":1}\n{\"b\":2}\r\n\r\n{\"c\":3}\n",
        &["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"].map(data),
    );
    check("data: a\n{\"b\":2}\ndata: c\n\n", &[data("a"), data("{\"b\":2}"), data("c")]);
    check("data: a\r\n{\"data\": 2}\r\n\r\n", &[data("a"), data("{\"data\": 2}")]);
}

#[test]
fn errors_are_told_apart_from_data() {
    check("event: error\ndata: {\"m\":1}\n\ndata: b\n\n", &[error("{\"m\":1}"), data("b")]);
    check("event:error\r\ndata: a\r\n\r\n", &[error("a")]);
    check("data: a\nevent: error \ndata: b\n\ndata: c\n\n", &[error("a\nb"), data("c")]);
    check("event: error\nevent: message\ndata: a\n\n", &[data("a")]);
    check("event: error\n\ndata: a\n\n", &[data("a")]);
    check("event: errors\ndata: a\n\n", &[data("a")]);
    check("event: error\n{\"a\":1}\ndata: b\n\n", &[error("{\"a\":1}"), data("b")]);
    check("event: error\ndata: a\n{\"b\":2}\n", &[error("a"), data("{\"b\":2}")]);
    check("error: {\"code\":500}\n\ndata: a\n\n", &[error("{\"code\":500}"), data("a")]);
    check("data: a\nerror:{\"code\":500}\n\n", &[data("a"), error("{\"code\":500}")]);
}

#[test]
fn a_mixed_stream_survives_every_pair_of_cuts() {
    check(
        "\u{FEFF}: ping\r\n\r\nevent: x\rid: 1\rdata: {\"č\":1}\r\rdata:two\r\ndata: lines\n\n\
         {\"bare\":\"🐎\"}\r\n:\n\nevent: error\ndata: bad\n\r\nerror: {\"c\":5}\r\rdata: [DONE] ",
        &[
            data("{\"č\":1}"),
            data("two\nlines"),
            data("{\"bare\":\"🐎\"}"),
            error("bad"),
            error("{\"c\":5}"),
            data("[DONE] "),
        ],
    );
}

/// A small generator of numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

#[test]
fn random_cuts_of_a_long_stream_change_nothing() {
    let mut numbers = Numbers(7);
    let mut input = String::from("\u{FEFF}");
    let mut expected = Vec::new();
    for index in 0..3000 {
        let text = "ž".repeat(numbers.below(90));
        let end = ["\n", "\r", "\r\n"][numbers.below(3)];
        let comment = if numbers.below(4) == 0 { ": ping" } else { "event: x" };
        if numbers.below(3) == 0 {
            input += &format!("data: {index}{end}data:{text}{end}{comment}{end}{end}");
            expected.push(data(&format!("{index}\n{text}")));
        } else {
            input += &format!("{comment}{end}data: {index} {text}{end}{end}");
            expected.push(data(&format!("{index} {text}")));
        }
    }
    for most in [2, 17, 300, 9000] {
        let mut rest = input.as_bytes();
        let pieces = std::iter::from_fn(|| {
            let (piece, tail) = rest.split_at(rest.len().min(numbers.below(most + 1)));
            let more = !rest.is_empty();
            rest = tail;
            more.then_some(piece)
        });
        assert!(decode(pieces) == expected, "pieces of up to {most} bytes");
    }
}

#[test]
fn events_wait_when_the_next_bytes_come_before_they_are_asked_for() {
    let mut decoder = Decoder::new();
    let input = "data: a\r\n\r\ndata: b\ndata: c\n\n{\"d\":1}\ndata: e\n{\"f\":2}\n";
    for piece in input.as_bytes().chunks(3) {
        decoder.push(piece);
    }
    let expected = [data("a"), data("b\nc"), data("{\"d\":1}"), data("e"), data("{\"f\":2}")];
    assert_eq!(drain(&mut decoder), expected);
}

/// How many events come before the error, if there is one, for an input in pieces of `size`.
fn until_too_large(limit: usize, input: &str, size: usize) -> (usize, bool) {
    let mut decoder = Decoder::with_limit(limit);
    let mut count = 0;
    let mut pieces = input.as_bytes().chunks(size);
    loop {
        match decoder.next_event() {
            Ok(Some(_)) => count += 1,
            Ok(None) => match pieces.next() {
                Some(piece) => decoder.push(piece),
                None => return (count, false),
            },
            Err(error) => {
                assert!(matches!(error, Error::UpstreamProtocol(_)), "{error}");
                assert!(decoder.next_event().is_err(), "the error stays");
                return (count, true);
            }
        }
    }
}

fn check_limit(limit: usize, input: &str, expected: (usize, bool)) {
    for size in 1..=input.len() {
        assert_eq!(until_too_large(limit, input, size), expected, "{limit} {size} {input:?}");
    }
}

#[test]
fn a_line_or_an_event_above_the_limit_is_an_error() {
    check_limit(10, "data: 1234\n\n", (1, false));
    check_limit(10, "data: 12345\n\n", (0, true));
    check_limit(10, "data: 1234\r\n\r\ndata: 12345", (1, true));
    check_limit(10, "{\"a\":1234567}\n", (0, true));
    check_limit(10, ": a long comment\n", (0, true));
    check_limit(10, "data: 1\n\ndata: 123\ndata: 456\ndata: 78\n\n", (2, false));
    check_limit(10, "data: 1\n\ndata: 123\ndata: 456\ndata: 789\n\n", (1, true));
    check_limit(10, &"data: 1234\n\n".repeat(50), (50, false));
}

#[test]
fn consumed_bytes_do_not_pile_up() {
    let mut decoder = Decoder::new();
    decoder.push(b"data: first\n");
    for _ in 0..10_000 {
        decoder.push(b": the event has no end yet\n");
        assert_eq!(drain(&mut decoder), []);
        assert!(decoder.buffer.len() < 100, "{}", decoder.buffer.len());
    }
    decoder.push(b"\n");
    assert_eq!(drain(&mut decoder), [data("first")]);
    decoder.push(b"da");
    for _ in 0..10_000 {
        decoder.push(b"ta: next\r\n\r\ndata: ne");
        decoder.push(b"xt\n\nda");
        assert_eq!(drain(&mut decoder), [data("next"), data("next")]);
        assert!(decoder.buffer.len() < 100, "{}", decoder.buffer.len());
    }
}

#[test]
fn bytes_are_searched_once() {
    let mut decoder = Decoder::new();
    decoder.push(b"data: a\n\ndata: ");
    assert_eq!(drain(&mut decoder), [data("a")]);
    for length in 1..1000 {
        assert_eq!(drain(&mut decoder), []);
        assert_eq!(decoder.scanned_to, decoder.buffer.len());
        assert!((1024 * (length - 1)..1024 * length).contains(&decoder.buffered_len()));
        decoder.push(&[b'x'; 1024]);
        assert_eq!(decoder.scanned_to + 1024, decoder.buffer.len(), "after {length} pieces");
    }
    decoder.push(b"\n\n");
    assert_eq!(drain(&mut decoder), [data(&"x".repeat(999 * 1024))]);
}

#[test]
fn a_single_line_is_handed_out_without_a_copy() {
    let mut decoder = Decoder::new();
    decoder.push(b"data: a\n");
    assert_eq!(drain(&mut decoder), []);
    decoder.push(b"\ndata: b\r");
    assert_eq!(drain(&mut decoder), [data("a")]);
    decoder.push(b"\n");
    assert_eq!(drain(&mut decoder), []);
    decoder.push(b"\r\n");
    assert_eq!(drain(&mut decoder), [data("b")]);
    assert_eq!(decoder.joined.capacity(), 0);
}

#[test]
fn what_is_buffered_shows() {
    let mut decoder = Decoder::new();
    let mut pending_after = |bytes: &[u8]| {
        decoder.push(bytes);
        drain(&mut decoder);
        decoder.has_pending()
    };
    assert!(!pending_after(b""));
    assert!(pending_after(b"data"));
    assert!(pending_after(b": a\r"));
    assert!(pending_after(b"\n"));
    assert!(!pending_after(b"\r"));
    assert!(!pending_after(b"\n"));
    assert!(!pending_after(b": ping\n"));
    assert!(pending_after(b"{"));
    assert!(!pending_after(b"}\n"));
}

#[test]
fn line_ends_are_found_at_every_place() {
    for length in 0..100 {
        let mut bytes = vec![b'x'; length];
        assert_eq!(find_line_end(&bytes), None);
        for at in (0..length).rev() {
            bytes[at] = if at % 2 == 0 { b'\n' } else { b'\r' };
            assert_eq!(find_line_end(&bytes), Some(at));
        }
    }
}
