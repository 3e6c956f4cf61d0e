//! Stable names: the same number run after run, and another one for another user, project or name.

use std::collections::BTreeSet;

use portlease::{ErrorKind, Guarantee, ReserveOptions};

use crate::support::Folder;
use crate::support::ports::non_ephemeral_ports;
use crate::support::reserver::{Held, Reserver};

/// Numbers that no test allots to itself, so a name cannot take a number of another test.
const BEYOND_THE_SLICES: [u16; 2] = [30000, 65534];

/// A process of this project. Its names stand for numbers from the first to the last of `ports`.
fn reserver(folder: &Folder, project: &str, ports: &[u16]) -> Reserver {
    let range = format!("{}-{}", ports[0], ports[ports.len() - 1]);
    let launch = Reserver::launch(&folder.locks())
        .variable("PORTLEASE_PROJECT", project)
        .variable("PORTLEASE_RANGE", range);
    Reserver::start(launch)
}

/// Starts a process that makes one reservation and ends. Returns the reservation's details.
fn reserve_once(folder: &Folder, project: &str, ports: &[u16], how: &str) -> Held {
    reserver(folder, project, ports).reserve(how).held()
}

#[test]
fn a_name_stands_for_one_number_after_a_reboot_and_for_every_kind_of_server() {
    let ports = non_ephemeral_ports(64);
    let first = reserve_once(&Folder::new(), "shop", &ports, "named=db");
    assert_eq!(first.first_choice, Some(first.port()));
    for how in [
        "named=db",
        "named=db plain",
        "named=db pair",
        "named=db udp",
    ] {
        // Another lock folder has none of the files of the first process.
        let again = reserve_once(&Folder::new(), "shop", &ports, how);
        assert_eq!(again.ports, first.ports, "{how}");
    }
}

#[test]
fn other_names_and_other_projects_have_other_numbers() {
    let folder = Folder::new();
    let numbers = |project: &str| -> Vec<u16> {
        let mut reserver = reserver(&folder, project, &BEYOND_THE_SLICES);
        let choice = |name| {
            let held = reserver.reserve(&format!("named=name-{name}")).held();
            held.first_choice.unwrap()
        };
        (0..20).map(choice).collect()
    };
    let (shop, bank) = (numbers("shop"), numbers("bank"));
    let distinct: BTreeSet<u16> = shop.iter().copied().collect();
    // Two of 20 names seldom share a number. Four pairs would be no coincidence.
    assert!(distinct.len() > 16, "{shop:?}");
    let same = shop.iter().zip(&bank).filter(|(one, other)| one == other);
    assert!(same.count() < 4, "{shop:?} {bank:?}");
}

#[test]
fn a_taken_name_leads_to_the_next_number_of_its_own_order_and_reports_say_so() {
    let (folder, ports) = (Folder::new(), non_ephemeral_ports(64));
    let mut holder = reserver(&folder, "shop", &ports);
    let first = holder.reserve("named=db").held().port();
    let mut other = reserver(&folder, "shop", &ports);
    let second = other.reserve("named=db").held();
    assert_ne!(second.port(), first);
    assert_eq!(second.first_choice, Some(first));
    let own = holder.command(&format!("lease={first}"));
    assert!(own.ends_with(", named \"db\""), "{own}");
    let lease = holder.command(&format!("lease={}", second.port()));
    let said = format!(", named \"db\" (first choice of this name: {first})");
    assert!(lease.ends_with(&said), "{lease}");
    // The next number is as stable as the first.
    for _ in 0..3 {
        other.release("all");
        assert_eq!(other.reserve("named=db").held().ports, second.ports);
    }
    other.release("all");
    holder.release("all");
    assert_eq!(other.reserve("named=db").held().port(), first);
}

#[test]
fn a_killed_server_and_its_connections_do_not_change_the_number() {
    let (folder, ports) = (Folder::new(), non_ephemeral_ports(64));
    let mut holder = reserver(&folder, "shop", &ports);
    let first = holder.reserve("named=web").held().port();
    let reply = holder.command(&format!("serve={first}"));
    assert!(reply.starts_with("serves"), "{reply}");
    let client = std::net::TcpStream::connect(("127.0.0.1", first)).unwrap();
    holder.process().kill();
    // The client is still open, so the connection has not ended.
    let again = reserve_once(&folder, "shop", &ports, "named=web");
    assert_eq!(again.port(), first);
    drop(client);
}

#[test]
fn several_ports_of_a_name_each_have_their_own_number() {
    let ports = non_ephemeral_ports(64);
    let many = || reserve_once(&Folder::new(), "shop", &ports, "named=node many=4");
    let first = many();
    assert_eq!(first.ports.iter().collect::<BTreeSet<_>>().len(), 4);
    assert_eq!(many().ports, first.ports);
    let one = reserve_once(&Folder::new(), "shop", &ports, "named=node");
    assert_eq!(one.port(), first.port());
}

#[test]
fn a_name_without_a_range_stands_for_a_number_that_the_kernel_never_assigns() {
    let numbers = |name: &str| ReserveOptions::new().udp().named(name).reserve().unwrap();
    for name in ["one", "two", "three", "four"] {
        let p = numbers(name);
        assert_eq!(p.name(), Some(name));
        assert!(p.first_choice().is_some());
        if cfg!(target_os = "linux") {
            assert_eq!(p.guarantee(), Guarantee::Cooperative, "{p}");
        }
    }
}

#[test]
fn a_name_that_stands_for_nothing_is_an_error_that_says_what_was_expected() {
    let error = ReserveOptions::new().named("").reserve().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPort);
    assert_eq!(
        error.to_string(),
        "the stable name is empty: expected a name such as \"db\""
    );
    let exact = ReserveOptions::new().port(5432).named("db");
    let error = exact.reserve().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPort);
    assert!(
        error
            .to_string()
            .contains("port 5432 was requested together with the stable name \"db\""),
        "{error}"
    );
    let (folder, ports) = (Folder::new(), non_ephemeral_ports(2));
    let message = reserver(&folder, "", &ports)
        .reserve("named=db")
        .refused("InvalidPort");
    assert!(
        message.starts_with("PORTLEASE_PROJECT is empty: expected "),
        "{message}"
    );
}

#[cfg(unix)]
mod unix {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::support::program::installed;
    use crate::support::{capability, need};

    fn range() -> String {
        format!("{}-{}", BEYOND_THE_SLICES[0], BEYOND_THE_SLICES[1])
    }

    fn git(folder: &Path, args: &[&str]) {
        let identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"];
        let mut command = Command::new("git");
        command.current_dir(folder).args(identity).args(args);
        let output = command.output().unwrap();
        assert!(output.status.success(), "git {args:?}: {output:?}");
    }

    #[test]
    fn two_git_worktrees_have_different_numbers_in_every_folder_of_theirs() {
        need!(installed("git"));
        let (folder, repository) = (Folder::new(), Folder::new());
        let main = repository.path().join("main");
        std::fs::create_dir_all(main.join("src/deep")).unwrap();
        git(&main, &["init", "--quiet"]);
        git(
            &main,
            &["commit", "--quiet", "--allow-empty", "-m", "empty"],
        );
        git(&main, &["worktree", "add", "--quiet", "../other"]);
        let choices = |within: &Path| -> Vec<u16> {
            let launch = Reserver::launch(&folder.locks())
                .variable("PORTLEASE_RANGE", range())
                .setup(format!(
                    "unset PORTLEASE_PROJECT; cd '{}'",
                    within.display()
                ));
            let mut reserver = Reserver::start(launch);
            let mut choice = |name| {
                let held = reserver.reserve(&format!("named={name}")).held();
                held.first_choice.unwrap()
            };
            ["db", "cache", "web"].map(&mut choice).to_vec()
        };
        let of_main = choices(&main);
        assert_eq!(choices(&main.join("src/deep")), of_main);
        assert_ne!(choices(&repository.path().join("other")), of_main);
        // Without a repository the working directory is the project.
        assert_ne!(choices(repository.path()), of_main);
    }

    #[test]
    fn two_users_have_different_numbers() {
        need!(capability::nobody());
        let folder = Folder::new();
        let choices = |launch: crate::support::helper::Launch| -> Vec<u16> {
            let launch = launch
                .variable("PORTLEASE_RANGE", range())
                .variable("PORTLEASE_PROJECT", "shop");
            let mut reserver = Reserver::start(launch);
            let mut choice = |name| {
                let held = reserver.reserve(&format!("named={name}")).held();
                held.first_choice.unwrap()
            };
            ["db", "cache", "web"].map(&mut choice).to_vec()
        };
        let launch = || Reserver::launch(&folder.locks());
        let own = choices(launch());
        assert_eq!(choices(launch()), own, "the control: one user");
        assert_ne!(choices(launch().run_as_nobody()), own);
    }
}
