//! An encoder for the OpenMetrics text format, version 1.0.
//!
//! Pure. Invariant: the samples of a family follow its header, and no label value ends its line.

use std::fmt::{Display, Write};

/// The text so far.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    out: String,
    /// Name of the current family.
    family_name: String,
}

impl Encoder {
    /// Begins a family of samples. The name must end in `unit`, if there is one.
    pub(super) fn begin_family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        name.clone_into(&mut self.family_name);
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.out, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.out, "# HELP {name} {help}");
    }

    /// Writes a sample of the current family.
    pub(super) fn write_sample(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        value: impl Display,
    ) {
        self.out.push_str(&self.family_name);
        self.out.push_str(suffix);
        for (place, (name, value)) in labels.iter().enumerate() {
            self.out.push(if place == 0 { '{' } else { ',' });
            self.out.push_str(name);
            self.out.push_str("=\"");
            write_escaped(&mut self.out, value);
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.out, " {value}");
    }

    /// Writes a gauge without labels.
    pub(super) fn write_gauge(&mut self, name: &str, help: &str, value: u64) {
        self.begin_family(name, "gauge", "", help);
        self.write_sample("", &[], value);
    }

    /// Ends the text.
    pub(super) fn finish(mut self) -> String {
        self.out.push_str("# EOF\n");
        self.out
    }
}

fn write_escaped(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            // Some parsers end a line at a carriage return.
            control if control.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_its_head_and_then_its_samples() {
        let mut out = Encoder::default();
        out.begin_family("a_seconds", "gauge", "seconds", "Of a.");
        out.write_sample("", &[("x", "1"), ("y", "2")], 0.5);
        out.write_gauge("c", "Of c.", 0);
        let expected = "# TYPE a_seconds gauge\n# UNIT a_seconds seconds\n# HELP a_seconds Of a.\n\
                        a_seconds{x=\"1\",y=\"2\"} 0.5\n\
                        # TYPE c gauge\n# HELP c Of c.\nc 0\n# EOF\n";
        assert_eq!(out.finish(), expected);
    }

    #[test]
    fn whatever_a_label_says_it_stays_in_its_place() {
        let mut out = Encoder::default();
        out.begin_family("a", "gauge", "", "Of a.");
        out.write_sample("", &[("x", "q\"b\\n\nr\r{}é")], 1);
        assert!(out.finish().contains("a{x=\"q\\\"b\\\\n\\nr\u{fffd}{}é\"} 1\n"));
    }
}
