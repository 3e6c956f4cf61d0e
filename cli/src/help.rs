//! The exit codes and examples at the end of the `--help` of some commands.

/// The default lock folder.
#[cfg(target_os = "linux")]
macro_rules! lock_folder {
    () => {
        "/dev/shm/portlease if /dev/shm is a tmpfs of at least 1 GiB that every user can write to, \
         else /tmp/portlease"
    };
}
#[cfg(all(unix, not(target_os = "linux")))]
macro_rules! lock_folder {
    () => {
        "/tmp/portlease"
    };
}
#[cfg(windows)]
macro_rules! lock_folder {
    () => {
        "the folder portlease in the temporary folder of the user"
    };
}

/// The end of `portlease --help`.
pub(crate) const MAIN: &str = concat!(
    "\
Examples:
  portlease check 5432 8000-8010           # before the tests: are these ports free?
  portlease who 5432                       # which process holds it?
  portlease run -- npm test                # with a reserved port in the variable PORT
  portlease run --port WEB -- server --port {WEB}
  PORT=$(portlease reserve)                # until this script ends
  portlease wait --listening --timeout 30 5432

A DURATION is a number of seconds, or has units: 500ms, 1m 30s.

Exit codes: 0 yes, 1 no, 2 usage error or failure, 3 nothing found but something could not be \
read. Ctrl-C ends portlease by the signal, which shells report as 130. `portlease run` returns the \
exit code of its command, 125 if portlease failed, 126 if the command cannot be executed, and 127 \
if it does not exist.

Environment: PORTLEASE_DIR is the folder of the lock files, by default ",
    lock_folder!(),
    ". \
PORTLEASE_RANGE=LOW-HIGH limits automatically chosen ports to this range. PORTLEASE_PROJECT \
identifies the project for --stable and --name; by default it is the nearest folder with .git, \
else the working directory. PORTSERVER_ADDRESS is \
the address of a port server (as for portpicker) that chooses the ports instead of portlease."
);

pub(crate) const RUN: &str = "\
Exit codes: that of the command; 125 if portlease failed, 126 if the command cannot be executed, \
127 if it does not exist. If signal N ends the command, portlease ends by signal N too, which \
shells report as 128+N

Examples:
  portlease run -- my-server --port {PORT}
  portlease run --port DB --port WEB=8080 -- ./test.sh    reads $DB and $WEB
  portlease run --wait-listening --port REDIS -- redis-server --port {REDIS}
  portlease run --stable --port WEB -- vite --port {WEB}
  portlease run --http /health -- my-server --port {PORT}
  portlease run --listen WEB --fd 3 -- uvicorn --fd 3 app:app
  portlease run --leaks=fail -- npm test";

pub(crate) const RESERVE: &str = "\
Exit codes: 0 reserved, 2 usage error or failure

Examples:
  PORT=$(portlease reserve)
  portlease reserve -n 3 --range 20000-29999
  portlease reserve --prefer 5432 --exclude 5433
  portlease reserve --offsets 0,10000
  portlease reserve --name db    the same number in each run
  eval \"$(portlease reserve --format env --variable DB_PORT)\"
  portlease reserve --for 30m    hold the port for a time, not for a process
  portlease reserve --format dotenv --pid $$ > .env";

pub(crate) const WAIT: &str = "\
Exit codes: 0 condition met, 1 timed out, 2 usage error, failure, or the process of --pid ended \
before the condition was met

Examples:
  portlease wait --listening --pid $! 8080
  portlease wait --http /health 8080
  portlease wait --http /ready=204 --timeout 2m 127.0.0.1:8080
  portlease wait --free 8080";

pub(crate) const STOP: &str = "\
Exit codes: 0 all ports are free now, 1 some are not, 2 usage error or failure, 3 none is in use \
but some could not be checked. With --dry-run: 0 all ports would be free, 1 some would not, 3 that \
is not certain

Examples:
  portlease stop 8080
  portlease stop --dry-run 3000-3010
  portlease stop --under . 8080    only a server that runs in this folder";
