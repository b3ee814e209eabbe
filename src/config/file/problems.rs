//! The mistakes of the file, by line.
//!
//! Pure. Invariant: each is one line of text that begins with the file's name and the line's number.

/// What is wrong, and where.
#[derive(Default)]
pub struct Problems {
    list: Vec<(usize, String)>,
    syntax_lines: Vec<usize>,
}

impl Problems {
    /// Adds a mistake.
    pub fn add(&mut self, line: usize, problem: &str) {
        let problem = problem.replace(['\n', '\r'], " ");
        if !self.list.iter().any(|(known, text)| *known == line && *text == problem) {
            self.list.push((line, problem));
        }
    }

    /// Adds a mistake in the syntax. Of several in one line, the first one is told: the others follow
    /// from it.
    pub fn add_syntax(&mut self, line: usize, problem: &str) {
        if !self.syntax_lines.contains(&line) {
            self.syntax_lines.push(line);
            self.add(line, problem);
        }
    }

    /// The lines that are no TOML.
    pub fn syntax_lines(&self) -> Vec<usize> {
        self.syntax_lines.clone()
    }

    /// All mistakes in the order of their lines, each with its line.
    pub fn into_lines(mut self, file: &str) -> Vec<(usize, String)> {
        self.list.sort_by_key(|(line, _)| *line);
        let tell = |(line, problem)| (line, format!("{file}:{line}: {problem}"));
        self.list.into_iter().map(tell).collect()
    }
}
