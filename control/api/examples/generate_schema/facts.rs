//! Reads `facts.txt` and writes its facts into the tables; a fact about an unknown field is an error.

use std::path::Path;

use super::json::ListType;
use super::merge::{Field, Message, Table};

/// One line of the page.
pub(crate) struct Fact {
    topic: String,
    group: String,
    name: String,
    words: Vec<String>,
}

/// The page's facts.
pub(crate) fn read(path: &Path) -> Result<Vec<Fact>, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut next = || words.next().ok_or_else(|| format!("incomplete fact: {line}"));
            Ok(Fact { topic: next()?, group: next()?, name: next()?, words: words.collect() })
        })
        .collect()
}

/// Writes every fact into each version of its struct.
pub(crate) fn apply(facts: &[Fact], tables: &mut [Table]) -> Result<(), String> {
    let mut unused = Vec::new();
    for fact in facts {
        let line = format!("{} {} {}", fact.topic, fact.group, fact.name);
        if fact.topic == "atomic" {
            let mut found = false;
            for table in tables.iter_mut().filter(|table| in_group(table, &fact.group)) {
                if let Some(message) = table.messages.get_mut(&fact.name) {
                    message.atomic = true;
                    found = true;
                }
            }
            if !found {
                unused.push(line.clone());
            }
        }
        for word in &fact.words {
            let (field_name, value) = word.split_once('=').unwrap_or((word, ""));
            let mut found = false;
            for field in fields(tables, fact, field_name) {
                found = true;
                match fact.topic.as_str() {
                    "patch" => field.patch = Some(value.to_owned()),
                    "list" if value == "atomic" => field.list_type = None,
                    "list" => {
                        field.list_type = Some(ListType::Map(value.split(',').map(str::to_owned).collect()))
                    }
                    "pointer" => field.pointer = true,
                    "optional" => field.required = false,
                    other => return Err(format!("facts.txt: unknown topic {other}")),
                }
            }
            if !found {
                unused.push(format!("{line} {word}"));
            }
        }
    }
    if unused.is_empty() {
        Ok(())
    } else {
        Err(format!("facts.txt speaks of nothing in: {}", unused.join("; ")))
    }
}

/// The fields that a fact is about: of the struct itself, or embedded from it.
fn fields<'a>(tables: &'a mut [Table], fact: &'a Fact, name: &'a str) -> impl Iterator<Item = &'a mut Field> {
    tables
        .iter_mut()
        .filter(|table| in_group(table, &fact.group))
        .flat_map(|table| table.messages.iter_mut())
        .flat_map(|(message, Message { fields, .. })| fields.iter_mut().map(move |field| (message, field)))
        .filter(move |(message, field)| {
            field.declared_in.as_ref().unwrap_or(message) == &fact.name && field.name == name
        })
        .map(|(_, field)| field)
}

fn in_group(table: &Table, group: &str) -> bool {
    table.package.rsplit('.').nth(1) == Some(group)
}
