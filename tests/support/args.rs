//! Arguments of a helper process, and its commands: `name=value` words with spaces between them.

/// `port=60315 many=3`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args(Vec<(String, String)>);

impl Args {
    pub(crate) fn parse(text: &str) -> Args {
        let pair = |word: &str| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name.to_owned(), value.to_owned())
        };
        Args(text.split_whitespace().map(pair).collect())
    }

    /// The value of the argument with this name; empty if the argument is a name alone.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name).map(|value| {
            value
                .parse()
                .ok()
                .unwrap_or_else(|| panic!("{name}={value:?} is no number"))
        })
    }

    /// The port numbers of `name=1,2` or `name=1-2`; none without that argument.
    pub(crate) fn ports(&self, name: &str) -> Vec<u16> {
        let text = self.get(name).unwrap_or_default();
        text.split([',', '-'])
            .filter(|n| !n.is_empty())
            .map(|n| n.parse().unwrap())
            .collect()
    }

    /// The first word and its value. In a command, they are the action and its port.
    pub(crate) fn command(&self) -> (&str, &str) {
        self.0
            .first()
            .map_or(("", ""), |(name, value)| (name, value))
    }
}
