//! A daemon's settings as a file for its service manager (`EnvironmentFile=` of systemd), written from what `--help` is written from:
//! each variable with its help, commented out, at its default.

use std::fmt::Write as _;

use clap::{Arg, Command};

/// How long a line of help may be.
const WIDTH: usize = 110;

/// The file for a command whose arguments have variables. Those of `more` (options of the whole program) follow.
#[must_use]
pub fn environment_file(intro: &str, command: &Command, more: &Command) -> String {
    let mut text = String::new();
    comment(&mut text, intro);
    let arguments = command.get_arguments().chain(more.get_arguments());
    for (argument, variable) in arguments.filter_map(|argument| Some((argument, argument.get_env()?))) {
        text.push('\n');
        let help = argument.get_long_help().or_else(|| argument.get_help());
        comment(&mut text, &help.map_or_else(String::new, ToString::to_string));
        let values: Vec<String> =
            argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        if !values.is_empty() {
            comment(&mut text, &format!("One of: {}.", values.join(", ")));
        }
        if argument.is_required_set() {
            comment(&mut text, "Needed.");
        }
        let _ = writeln!(text, "#{}={}", variable.to_string_lossy(), default(argument));
    }
    text
}

fn default(argument: &Arg) -> String {
    let values: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    values.join(",")
}

/// Paragraphs as comments, broken between words.
fn comment(text: &mut String, what: &str) {
    for paragraph in what.lines().filter(|line| !line.trim().is_empty()) {
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.len() > 1 && line.len() + 1 + word.len() > WIDTH {
                let _ = writeln!(text, "{line}");
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        let _ = writeln!(text, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variable_has_its_help_and_its_default_and_nothing_is_set() {
        let run = Command::new("run")
            .arg(Arg::new("name").long("name").env("X_NAME").required(true).help("Its name."))
            .arg(
                Arg::new("way")
                    .long("way")
                    .env("X_WAY")
                    .value_parser(["a", "b"])
                    .default_value("a")
                    .help("How."),
            )
            .arg(Arg::new("hidden").long("hidden").help("Has no variable."));
        let all =
            Command::new("x").arg(Arg::new("log").long("log").env("X_LOG").default_value("info").help("L."));
        let text = environment_file("Settings.", &run, &all);
        assert_eq!(
            text,
            "# Settings.\n\n# Its name.\n# Needed.\n#X_NAME=\n\n# How.\n# One of: a, b.\n#X_WAY=a\n\n# L.\n#X_LOG=info\n"
        );
    }

    #[test]
    fn long_help_is_broken_between_words() {
        let mut text = String::new();
        comment(&mut text, &"word ".repeat(50));
        assert!(
            text.lines().count() == 3
                && text.lines().all(|line| line.len() <= WIDTH && line.ends_with("word"))
        );
    }
}
