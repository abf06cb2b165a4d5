//! CEL conditions: checked when loaded, so that deciding on a request is bounded in time and space. An error, or an answer
//! that is neither true nor false, is never taken for a yes.
//!
//! The interpreter has no step limit, so the bound is made here, before a condition is ever run: length, depth, the known
//! variables and functions only, no macro that builds values, literal patterns, and a worst case of
//! [`STEPS_MAX`] steps over inputs whose lists are cut off at [`LIST_MAX`] entries.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators,
};
use cel::{Context, ExecutionError, Program, Value};

use crate::model::policy::{LIST_MAX, Pattern};

mod bindings;
mod parts;
pub(super) use bindings::Bindings;

/// Longest condition, in bytes.
const BYTES_MAX: usize = 4096;
/// Most levels of nesting.
const DEPTH_MAX: usize = 100;
/// Most steps that a condition may take in the worst case.
const STEPS_MAX: u64 = 2_000_000;

/// What a condition may name, and the fields of each.
const VARIABLES: &[(&str, &[&str])] = &[
    (
        "requester",
        &["principals", "user", "workload", "groups", "claims"],
    ),
    (
        "request",
        &[
            "service",
            "grpc",
            "http",
            "duration",
            "reason",
            "tickets",
            "via",
            "breakGlass",
        ],
    ),
    ("subject", &[]),
    ("environment", &[]),
    ("now", &[]),
];

const FUNCTIONS: &[&str] = &[
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "string",
    "int",
    "uint",
    "double",
    "duration",
    "timestamp",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];

/// A condition that passed every check.
#[derive(Debug)]
pub(super) struct Condition {
    program: Program,
    /// What each of its alternatives says; one where it has no more.
    alternatives: Vec<(Box<str>, Program)>,
}

/// Why a condition is refused, and where in it. Line and column count from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConditionError {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) cause: String,
}

impl Condition {
    /// Compiles and checks. Needs a stack as large as [`super::load`] gives it: the parser recurses over the whole text.
    pub(super) fn compile(text: &str) -> Result<Self, Vec<ConditionError>> {
        let whole = |cause: String| {
            vec![ConditionError {
                line: 1,
                column: 1,
                cause,
            }]
        };
        if text.trim().is_empty() {
            return Err(whole(
                "is empty; write true for a rule that always matches".to_owned(),
            ));
        }
        if text.len() > BYTES_MAX {
            return Err(whole(format!(
                "is longer than {BYTES_MAX} bytes; split it into several rules"
            )));
        }
        let compiled = catch_unwind(AssertUnwindSafe(|| Program::compile(text)));
        let Ok(compiled) = compiled else {
            return Err(whole("makes the CEL parser fail; simplify it".to_owned()));
        };
        let program = compiled
            .map_err(|errors| errors.errors.iter().take(1).map(syntax).collect::<Vec<_>>())?;
        let mut check = Check {
            program: &program,
            text,
            bound: Vec::new(),
            sums: 0,
            errors: Vec::new(),
        };
        check.sums = program.source_info().source.matches('+').count() as u64;
        let steps = check.cost(program.expression(), 0);
        if check.errors.is_empty() && steps > STEPS_MAX {
            let cause = format!(
                "may take {steps} steps on the largest request, and {STEPS_MAX} is the limit; \
                 take a loop out of another or split the rule"
            );
            return Err(whole(cause));
        }
        if !check.errors.is_empty() {
            return Err(check.errors);
        }
        Ok(Self {
            alternatives: alternatives(text),
            program,
        })
    }

    /// `Some` when the condition is the word true or false.
    pub(super) fn constant(&self) -> Option<bool> {
        let Expr::Literal(LiteralValue::Boolean(value)) = &self.program.expression().expr else {
            return None;
        };
        Some(*value.inner())
    }

    /// The alternative that makes it true, as far as that can be told: for words only.
    pub(super) fn cause(&self, bindings: &Context<'_, '_>) -> Option<&str> {
        let holds =
            |program: &Program| matches!(execute(program, bindings), Ok(Ok(Value::Bool(true))));
        self.alternatives
            .iter()
            .find(|(_, program)| holds(program))
            .map(|(text, _)| &**text)
    }

    /// True or false, or why neither.
    pub(super) fn holds(&self, bindings: &Context<'_, '_>) -> Result<bool, String> {
        match execute(&self.program, bindings) {
            Ok(Ok(Value::Bool(answer))) => Ok(answer),
            Ok(Ok(other)) => Err(format!(
                "gives {} instead of true or false",
                other.type_of()
            )),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => Err("makes the CEL interpreter fail".to_owned()),
        }
    }
}

fn execute(
    program: &Program,
    bindings: &Context<'_, '_>,
) -> std::thread::Result<Result<Value, ExecutionError>> {
    catch_unwind(AssertUnwindSafe(|| program.execute(bindings)))
}

/// None of them where one cannot stand alone.
fn alternatives(text: &str) -> Vec<(Box<str>, Program)> {
    let compile = |part: &str| {
        let program = catch_unwind(AssertUnwindSafe(|| Program::compile(part)));
        Some((part.into(), program.ok()?.ok()?))
    };
    parts::alternatives(text)
        .into_iter()
        .map(compile)
        .collect::<Option<_>>()
        .unwrap_or_default()
}

/// What went wrong, without the values at hand: they are claims of somebody's token.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's vocabulary of errors may grow; none is an answer"
)]
fn explain(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("finds no field {key:?}; test for it with has()"),
        ExecutionError::NoSuchOverload(overload) => overload.to_string(),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "divides by zero".to_owned()
        }
        ExecutionError::Overflow(..) => "overflows".to_owned(),
        ExecutionError::IndexOutOfBounds(_) => "reads past the end of a list".to_owned(),
        ExecutionError::FunctionError { function, .. } => {
            format!("calls {function} with something it cannot take")
        }
        _ => "mixes types that do not go together".to_owned(),
    }
}

fn syntax(error: &cel::ParseError) -> ConditionError {
    let at = |number: isize| usize::try_from(number).unwrap_or(1).max(1);
    let text = error
        .msg
        .strip_prefix("Syntax error: ")
        .unwrap_or(&error.msg);
    let cause = match text.split_once("expecting") {
        _ if text.contains("Recursion limit") => "is nested too deeply".to_owned(),
        Some((head, _)) => head.trim().to_owned(),
        None => text.chars().take(200).collect(),
    };
    let cause = format!("is no CEL expression: {cause}");
    ConditionError {
        line: at(error.pos.0),
        column: at(error.pos.1),
        cause,
    }
}

struct Check<'p> {
    program: &'p Program,
    text: &'p str,
    /// Variables of the macros around.
    bound: Vec<&'p str>,
    /// How often `+` occurs: no list is longer than so many inputs together.
    sums: u64,
    errors: Vec<ConditionError>,
}

impl<'p> Check<'p> {
    /// The most steps that the expression can take; notes what is not allowed.
    fn cost(&mut self, expr: &'p IdedExpr, depth: usize) -> u64 {
        if depth > DEPTH_MAX {
            self.refuse(expr, "is nested too deeply; split it into several rules");
            return 0;
        }
        let depth = depth + 1;
        let inner = match &expr.expr {
            Expr::Unspecified | Expr::Literal(_) => 0,
            Expr::Ident(name) => {
                self.variable(expr, name);
                0
            }
            Expr::Select(select) => {
                self.field(expr, &select.operand, &select.field);
                self.cost(&select.operand, depth)
            }
            Expr::Call(call) => self.call(expr, call, depth),
            Expr::List(list) => self.sum(&list.elements, depth),
            Expr::Map(map) => self.entries(&map.entries, depth),
            Expr::Struct(_) => {
                self.refuse(expr, "builds a message; compare the fields instead");
                0
            }
            Expr::Comprehension(comprehension) => self.comprehension(expr, comprehension, depth),
        };
        inner.saturating_add(1)
    }

    fn sum(&mut self, exprs: &'p [IdedExpr], depth: usize) -> u64 {
        exprs
            .iter()
            .fold(0, |sum, expr| sum.saturating_add(self.cost(expr, depth)))
    }

    fn entries(&mut self, entries: &'p [cel::common::ast::IdedEntryExpr], depth: usize) -> u64 {
        entries.iter().fold(0, |sum, entry| {
            let cost = match &entry.expr {
                EntryExpr::StructField(field) => self.cost(&field.value, depth),
                EntryExpr::MapEntry(entry) => self
                    .cost(&entry.key, depth)
                    .saturating_add(self.cost(&entry.value, depth)),
            };
            sum.saturating_add(cost)
        })
    }

    fn call(&mut self, expr: &'p IdedExpr, call: &'p CallExpr, depth: usize) -> u64 {
        let name = call.func_name.as_str();
        let operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
        if !operator && !FUNCTIONS.contains(&name) {
            self.refuse(
                expr,
                format!(
                    "calls {name}, which is not available; there are {}",
                    FUNCTIONS.join(", ")
                ),
            );
        }
        let own = match name {
            "matches" => {
                self.literal_pattern(expr, call);
                100
            }
            // Concatenation copies.
            operators::ADD => 10,
            _ => 0,
        };
        let target = call
            .target
            .as_deref()
            .map_or(0, |target| self.cost(target, depth));
        self.sum(&call.args, depth)
            .saturating_add(target)
            .saturating_add(own)
    }

    /// A pattern is compiled each time it is used, so it must be known and small.
    fn literal_pattern(&mut self, expr: &'p IdedExpr, call: &'p CallExpr) {
        let refused = match call.args.last().map(|arg| &arg.expr) {
            Some(Expr::Literal(LiteralValue::String(text))) => Pattern::parse(text.inner()).err(),
            _ => Some("must be written out as text".to_owned()),
        };
        if let Some(cause) = refused {
            self.refuse(expr, format!("calls matches with a pattern that {cause}"));
        }
    }

    fn comprehension(
        &mut self,
        expr: &'p IdedExpr,
        comprehension: &'p ComprehensionExpr,
        depth: usize,
    ) -> u64 {
        if builds_values(comprehension) {
            self.refuse(
                expr,
                "uses map; use exists, exists_one, all or filter, which build no new values",
            );
            return 0;
        }
        let length = self.length(&comprehension.iter_range);
        let before = self.cost(&comprehension.iter_range, depth);
        let names = [
            Some(comprehension.iter_var.as_str()),
            comprehension.iter_var2.as_deref(),
        ];
        let bound = self.bound.len();
        self.bound.extend(names.into_iter().flatten());
        let parts = [&comprehension.loop_cond, &comprehension.loop_step];
        let each = parts.into_iter().fold(0_u64, |sum, part| {
            sum.saturating_add(self.cost(part, depth))
        });
        self.bound.truncate(bound);
        before.saturating_add(length.saturating_mul(each))
    }

    /// The most entries that a list can have.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "whatever else there is gets the largest bound"
    )]
    fn length(&self, expr: &IdedExpr) -> u64 {
        let inputs = LIST_MAX as u64;
        match &expr.expr {
            Expr::List(list) => list.elements.len() as u64,
            Expr::Map(map) => map.entries.len() as u64,
            Expr::Call(call) if call.func_name == operators::ADD => call
                .args
                .iter()
                .fold(0, |sum, arg| sum.saturating_add(self.length(arg))),
            Expr::Call(call) if call.func_name == operators::CONDITIONAL => call
                .args
                .iter()
                .map(|arg| self.length(arg))
                .max()
                .unwrap_or(inputs),
            Expr::Comprehension(filter) => self.length(&filter.iter_range),
            Expr::Select(select) if matches!(&select.operand.expr, Expr::Ident(_)) => inputs,
            _ => inputs.saturating_mul(self.sums + 1),
        }
    }

    fn variable(&mut self, expr: &IdedExpr, name: &str) {
        let known = name.starts_with('@')
            || self.bound.contains(&name)
            || VARIABLES.iter().any(|(v, _)| *v == name);
        if !known {
            let names: Vec<&str> = VARIABLES.iter().map(|(name, _)| *name).collect();
            self.refuse(
                expr,
                format!(
                    "names {name:?}, which is no variable; there are {}",
                    names.join(", ")
                ),
            );
        }
    }

    fn field(&mut self, expr: &IdedExpr, operand: &IdedExpr, field: &str) {
        let Expr::Ident(name) = &operand.expr else {
            return;
        };
        let Some((_, fields)) = VARIABLES.iter().find(|(variable, _)| variable == name) else {
            return;
        };
        if !self.bound.contains(&name.as_str()) && !fields.contains(&field) {
            let way_out = if fields.is_empty() {
                "it has none".to_owned()
            } else {
                format!("it has {}", fields.join(", "))
            };
            self.refuse(
                expr,
                format!("reads {name}.{field}, which is no field of {name}; {way_out}"),
            );
        }
    }

    fn refuse(&mut self, expr: &IdedExpr, cause: impl Into<String>) {
        let offset = self
            .program
            .source_info()
            .offset_for(expr.id)
            .map_or(0, |(start, _)| start as usize);
        let before: Vec<char> = self.text.chars().take(offset).collect();
        let line = before.iter().filter(|c| **c == '\n').count() + 1;
        let column = before.iter().rev().take_while(|c| **c != '\n').count() + 1;
        self.errors.push(ConditionError {
            line,
            column,
            cause: cause.into(),
        });
    }
}

/// Whether a macro collects anything but the entries it runs over.
fn builds_values(comprehension: &ComprehensionExpr) -> bool {
    if !matches!(comprehension.accu_init.expr, Expr::List(_) | Expr::Map(_)) {
        return false;
    }
    let mut step = &comprehension.loop_step.expr;
    if let Expr::Call(call) = step
        && call.func_name == operators::CONDITIONAL
        && let Some(then) = call.args.get(1)
    {
        step = &then.expr;
    }
    let Expr::Call(call) = step else { return true };
    let Some(Expr::List(list)) = call.args.get(1).map(|arg| &arg.expr) else {
        return true;
    };
    !matches!(list.elements.as_slice(), [IdedExpr { expr: Expr::Ident(name), .. }] if *name == comprehension.iter_var)
}

#[cfg(test)]
mod tests;
