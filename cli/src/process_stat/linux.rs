//! Linux: the facts of a process in `/proc/PID/stat`.

use std::io;

/// The fields of proc_pid_stat(5) that this program uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessStat {
    pub(crate) pid: u32,
    /// The name of the program, truncated by the kernel after 15 bytes.
    pub(crate) name: String,
    /// `true` if the process has ended and its parent has not yet read its exit status.
    pub(crate) is_zombie: bool,
    /// The pid of the parent process.
    pub(crate) parent: u32,
    group: u32,
    session: u32,
    /// The time of the start since boot, in clock ticks. The value distinguishes the process from a
    /// later one with the same pid.
    pub(crate) started: u64,
    /// The address of the arguments in memory, or 0 if the kernel hides the address from this user.
    /// An exec usually changes the address. A fork does not, so a subshell has the address of its
    /// parent.
    pub(crate) arguments_at: u64,
}

impl ProcessStat {
    /// `None` if the process does not exist or cannot be seen.
    pub(crate) fn of(pid: u32) -> Option<ProcessStat> {
        if !shows_processes() {
            return None;
        }
        let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        ProcessStat::parse(&String::from_utf8_lossy(&text))
    }

    /// Every process that this user can see. Empty if [`shows_processes`] is false.
    pub(crate) fn all() -> io::Result<Vec<ProcessStat>> {
        let mut all = Vec::new();
        if !shows_processes() {
            return Ok(all);
        }
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            all.extend(pid.and_then(ProcessStat::of));
        }
        Ok(all)
    }

    /// Returns `true` if `leader` leads the process group or the session of the process.
    pub(crate) fn is_led_by(&self, leader: u32) -> bool {
        [self.group, self.session].contains(&leader)
    }

    pub(crate) fn leads_its_session(&self) -> bool {
        self.session == self.pid
    }

    /// Counts the fields from the last `)`, because the name may contain blanks and parentheses.
    fn parse(text: &str) -> Option<ProcessStat> {
        let (head, fields) = text.rsplit_once(')')?;
        let (pid, name) = head.split_once(" (")?;
        let mut fields = fields.split_whitespace();
        let first_has_ended = matches!(fields.next()?, "Z" | "X");
        let mut number = || fields.next()?.parse().ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        // The code above has read fields 4 to 6. The number of threads is field 20, the start is
        // field 22, and the address is field 48.
        let threads: u32 = fields.nth(13)?.parse().ok()?;
        let started = fields.nth(1)?.parse().ok()?;
        let arguments_at = fields.nth(25)?.parse().ok()?;
        Some(ProcessStat {
            pid: pid.parse().ok()?,
            name: name.to_owned(),
            // The state is that of the first thread, which can end before the other threads. The
            // process runs until its last thread ends.
            is_zombie: first_has_ended && threads <= 1,
            parent,
            group,
            session,
            started,
            arguments_at,
        })
    }
}

/// Returns `true` if `/proc` shows the processes of this pid namespace. Returns `false` if `/proc`
/// is missing or belongs to another pid namespace, in which a pid names another process.
pub(crate) fn shows_processes() -> bool {
    let own = std::fs::read_link("/proc/self");
    own.is_ok_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_counted_from_the_end_of_the_name() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = ProcessStat::parse(&format!("77 (a) b (c) S {}", fields.join(" "))).unwrap();
        assert_eq!((stat.pid, stat.name.as_str()), (77, "a) b (c"));
        assert!(!stat.is_zombie);
        assert_eq!((stat.parent, stat.group, stat.session), (4, 5, 6));
        assert_eq!((stat.started, stat.arguments_at), (22, 48));
        let is_zombie = |state, threads: &str| {
            let fields = fields.join(" ").replace(" 20 ", threads);
            let text = format!("77 (a) {state} {fields}");
            ProcessStat::parse(&text).unwrap().is_zombie
        };
        assert!(is_zombie("Z", " 1 "));
        assert!(!is_zombie("Z", " 2 ") && !is_zombie("S", " 1 "));
        assert_eq!(ProcessStat::parse("77 (a) S 1"), None);
    }
}
