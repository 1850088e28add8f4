//! `--token-auth-file`: tokens that an administrator wrote down, one a line: token, user, uid, groups. Pure.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::User;

/// The users by what they show. Kept as hashes: a lookup's time says nothing about a token, and no dump shows one.
#[derive(Debug, Default)]
pub(crate) struct TokenFile {
    users: HashMap<[u8; 32], User>,
}

impl TokenFile {
    /// Reads lines of comma-separated values; fields may be in quotes, the groups are one field.
    ///
    /// # Errors
    /// A line with too few fields, named by its number; what is in it is not repeated.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut users = HashMap::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let fields = fields(line).ok_or_else(|| format!("line {}: a quote is not closed", index + 1))?;
            let (Some(token), Some(name), Some(uid)) = (fields.first(), fields.get(1), fields.get(2)) else {
                return Err(format!("line {}: needs at least token,user,uid", index + 1));
            };
            if token.is_empty() || name.is_empty() {
                return Err(format!("line {}: the token or the user is empty", index + 1));
            }
            let groups = fields.get(3).map_or("", String::as_str).split(',');
            let groups: Vec<String> =
                groups.map(str::trim).filter(|group| !group.is_empty()).map(str::to_owned).collect();
            let user = User { uid: uid.clone(), ..User::known(name, &groups) };
            if users.insert(Sha256::digest(token).into(), user).is_some() {
                return Err(format!("line {}: the same token as a line before", index + 1));
            }
        }
        Ok(Self { users })
    }

    /// Whose token it is.
    pub(crate) fn user(&self, token: &str) -> Option<&User> {
        self.users.get::<[u8; 32]>(&Sha256::digest(token).into())
    }
}

/// The fields of a line; a doubled quote in a quoted field is a quote.
fn fields(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => field.extend(letters.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field).trim().to_owned()),
            letter => field.push(letter),
        }
    }
    fields.push(field.trim().to_owned());
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_lead_to_users() {
        let text = "secret,jane,1,\"staff,ops\"\n\n other , \"Doe, Joe\" ,2\n";
        let file = TokenFile::parse(text).unwrap();
        let jane = file.user("secret").unwrap();
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "1"));
        assert_eq!(jane.groups, ["staff", "ops", "system:authenticated"]);
        assert_eq!(file.user("other").unwrap().name, "Doe, Joe");
        assert_eq!(file.user("secre"), None);
        assert!(!format!("{file:?}").contains("secret"));
    }

    #[test]
    fn bad_lines_are_named_and_not_repeated() {
        for (text, why) in [
            ("a,b", "line 1: needs at least token,user,uid"),
            ("a,b,c\n,b,c", "line 2: the token or the user is empty"),
            ("a,\"b,c", "line 1: a quote is not closed"),
            ("a,b,c\na,d,e", "line 2: the same token as a line before"),
        ] {
            assert_eq!(TokenFile::parse(text).unwrap_err(), why);
        }
    }

    #[test]
    fn fuzz_token_file() {
        oarlock_fuzz::Target::new("token_file").run(|input| {
            let text = String::from_utf8_lossy(input);
            if let Ok(file) = TokenFile::parse(&text) {
                assert!(file.users.len() <= text.lines().count());
                assert_eq!(file.user(""), None);
            }
        });
    }
}
