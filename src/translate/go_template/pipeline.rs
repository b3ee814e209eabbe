//! How commands and their arguments may follow each other inside of an action.
//!
//! Pipelines in parentheses stand in a list of bounded length: nothing calls itself.

use super::lexer::{Kind, Token};
use super::literal;
use super::parser::{Parser, Result};

/// Go's bound for parentheses in parentheses.
const MOST_PARENS: usize = 10_000;

/// Go's functions and those that Ollama adds.
#[rustfmt::skip]
const FUNCTIONS: &[&str] = &[
    "and", "call", "html", "index", "slice", "js", "len", "not", "or", "print", "printf", "println",
    "urlquery", "eq", "ge", "gt", "le", "lt", "ne",
    "json", "currentDate", "yesterdayDate", "toTypeScriptType",
];

/// A pipeline whose end was not met.
#[derive(Debug)]
struct Pipeline {
    /// As errors call it.
    context: &'static str,
    end: Kind,
    /// Commands that have begun.
    commands: usize,
    /// Arguments of the last one.
    arguments: usize,
    /// The first command after another one that is a constant and can take nothing.
    constant: Option<usize>,
}

impl Pipeline {
    fn new(context: &'static str, end: Kind) -> Self {
        Self { context, end, commands: 0, arguments: 0, constant: None }
    }
}

/// What may come next.
#[derive(Clone, Copy, Debug)]
enum Expected<'a> {
    /// A command, or the pipeline's end.
    Command,
    /// An argument, or what may follow one.
    Argument,
    /// Fields of the argument that was just read, which is a constant or not.
    Field(Option<Token<'a>>),
}

impl<'a> Parser<'a> {
    /// A pipeline up to the end of its action.
    pub(super) fn pipeline(&mut self, context: &'static str) -> Result<()> {
        let mut open = vec![Pipeline::new(context, Kind::RightDelim)];
        self.declarations(context)?;
        let mut expected = Expected::Command;
        while let Some(pipeline) = open.last_mut() {
            expected = match expected {
                Expected::Command => {
                    let next = self.command(pipeline)?;
                    if let Expected::Field(_) = next {
                        // One in parentheses is an argument of the one around it.
                        open.pop();
                    }
                    next
                }
                Expected::Argument => self.argument(&mut open)?,
                Expected::Field(constant) => self.fields(pipeline, constant)?,
            };
        }
        Ok(())
    }

    /// The variables that a pipeline begins with: one, or in a range two.
    fn declarations(&mut self, context: &str) -> Result<()> {
        for count in 1.. {
            let variable = self.next_word();
            if variable.kind != Kind::Variable {
                self.back(variable);
                break;
            }
            let behind = self.next();
            let spaced = behind.kind == Kind::Space;
            let next = if spaced { self.next_word() } else { behind };
            let comma = next.kind == Kind::Sign && next.text == ",";
            if !comma && !matches!(next.kind, Kind::Declare | Kind::Assign) {
                self.back(next);
                if spaced {
                    self.back(behind);
                }
                self.back(variable);
                break;
            }
            self.tree.declare(variable.text);
            if !comma {
                break;
            }
            if context != "range" || count == 2 {
                return Err(self.fault(format!("too many declarations in {context}")));
            }
            let second = self.next_word();
            self.back(second);
            if !matches!(second.kind, Kind::Variable | Kind::RightDelim | Kind::RightParen) {
                return Err(self.fault("range can only initialize variables"));
            }
        }
        Ok(())
    }

    /// The beginning of a command or the end of the pipeline.
    fn command(&mut self, pipeline: &mut Pipeline) -> Result<Expected<'a>> {
        let token = self.next_word();
        if token.kind == pipeline.end {
            if pipeline.commands == 0 {
                return Err(self.fault(format!("missing value for {}", pipeline.context)));
            }
            return match pipeline.constant {
                Some(stage) => {
                    let text = format!("non executable command in pipeline stage {stage}");
                    Err(self.fault(text))
                }
                None => Ok(Expected::Field(None)),
            };
        }
        if !begins_argument(token.kind) {
            return Err(self.unexpected(token, pipeline.context));
        }
        self.back(token);
        pipeline.commands += 1;
        pipeline.arguments = 0;
        Ok(Expected::Argument)
    }

    /// An argument without its fields.
    fn argument(&mut self, open: &mut Vec<Pipeline>) -> Result<Expected<'a>> {
        let token = self.next_word();
        match token.kind {
            Kind::LeftParen if open.len() > MOST_PARENS => {
                Err(self.fault("max expression depth exceeded"))
            }
            Kind::LeftParen => {
                let inner = Pipeline::new("parenthesized pipeline", Kind::RightParen);
                self.declarations(inner.context)?;
                open.push(inner);
                Ok(Expected::Command)
            }
            kind if begins_argument(kind) => {
                check(token, |variable| self.tree.knows(variable))
                    .map_err(|fault| self.fault(fault))?;
                let constant = !matches!(kind, Kind::Identifier | Kind::Field | Kind::Variable);
                Ok(Expected::Field(constant.then_some(token)))
            }
            _ => {
                self.back(token);
                self.behind()
            }
        }
    }

    /// The fields of an argument and what follows it.
    fn fields(
        &mut self,
        pipeline: &mut Pipeline,
        constant: Option<Token<'a>>,
    ) -> Result<Expected<'a>> {
        let mut next = self.next();
        let has_fields = next.kind == Kind::Field;
        while next.kind == Kind::Field {
            next = self.next();
        }
        self.back(next);
        pipeline.arguments += 1;
        if let Some(constant) = constant {
            if has_fields {
                let text = literal::quote(constant.text);
                return Err(self.fault(format!("unexpected . after term {text}")));
            }
            if pipeline.arguments == 1 && pipeline.commands > 1 {
                pipeline.constant.get_or_insert(pipeline.commands);
            }
        }
        self.behind()
    }

    /// What follows an argument: a blank and another one, or the end of the command.
    fn behind(&mut self) -> Result<Expected<'a>> {
        let token = self.next();
        match token.kind {
            Kind::Space => Ok(Expected::Argument),
            Kind::Pipe => Ok(Expected::Command),
            Kind::RightDelim | Kind::RightParen => {
                self.back(token);
                Ok(Expected::Command)
            }
            _ => Err(self.unexpected(token, "operand")),
        }
    }
}

fn begins_argument(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Bool
            | Kind::CharConstant
            | Kind::Complex
            | Kind::Dot
            | Kind::Field
            | Kind::Identifier
            | Kind::Number
            | Kind::Nil
            | Kind::RawString
            | Kind::String
            | Kind::Variable
            | Kind::LeftParen
    )
}

/// Whether an argument means something: a function or variable that is known, a constant that Go
/// can read. Complex constants are rare enough to be believed.
fn check(token: Token<'_>, knows: impl Fn(&str) -> bool) -> Result<()> {
    let unknown = |what: &str, which: &str| {
        let name = literal::quote(token.text);
        Err(format!("{what} {name}{which}"))
    };
    match token.kind {
        Kind::Identifier if !FUNCTIONS.contains(&token.text) => unknown("function", " not defined"),
        Kind::Variable if !knows(token.text) => unknown("undefined variable", ""),
        Kind::CharConstant => literal::character(token.text),
        Kind::Number => literal::number(token.text),
        Kind::String => literal::unquote(token.text).map(drop),
        _ => Ok(()),
    }
}
