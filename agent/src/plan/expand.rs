//! `$(VAR)` in commands, arguments and values, as kubelet expands it (third_party/forked/golang/expansion).

/// Replaces every `$(NAME)` that `lookup` knows; leaves those that it does not know; `$$` is a dollar.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(rest.get(..at).unwrap_or_default());
        rest = rest.get(at + 1..).unwrap_or_default();
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;

    fn known(name: &str) -> Option<String> {
        (name == "VAR").then(|| "value".to_owned())
    }

    #[test]
    fn known_names_are_replaced_and_all_else_stays() {
        for (text, expected) in [
            ("$(VAR)", "value"),
            ("a$(VAR)b$(VAR)", "avaluebvalue"),
            ("$(NOBODY)", "$(NOBODY)"),
            ("$$(VAR)", "$(VAR)"),
            ("$VAR", "$VAR"),
            ("$(VAR", "$(VAR"),
            ("end$", "end$"),
            ("$$$(VAR)", "$value"),
            ("ü$(VAR)", "üvalue"),
        ] {
            assert_eq!(expand(text, known), expected, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_survived_and_text_without_dollar_is_kept(text in ".*") {
            let out = expand(&text, known);
            if !text.contains('$') {
                proptest::prop_assert_eq!(out, text);
            }
        }
    }
}
