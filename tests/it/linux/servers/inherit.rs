//! Real servers that inherit their listener.

use std::process::Command;

use portlease::reserve_port;

use super::http_get;
use crate::support::program::{Program, command, installed, python, python_has};
use crate::support::{DEADLINE, Folder, need};

const ASGI: &str = "\
async def app(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'hello from asgi'})
";

const WSGI: &str = "\
def app(environ, start_response):
    start_response('200 OK', [])
    return [b'hello from wsgi']
";

#[test]
fn uvicorn_takes_a_chosen_descriptor() {
    need!(python_has("uvicorn"));
    let folder = Folder::new();
    std::fs::write(folder.path().join("hello.py"), ASGI).unwrap();
    let p = reserve_port();
    let mut uvicorn = Command::new(python());
    uvicorn
        .args(["-m", "uvicorn", "--fd", "7", "--no-access-log", "hello:app"])
        .current_dir(folder.path());
    p.pass_to_fd(&mut uvicorn, 7).unwrap();
    let mut uvicorn = Program::start(uvicorn, folder);
    let text = uvicorn.answers(|| http_get(&p));
    assert!(text.ends_with("hello from asgi"), "{text}");
}

#[test]
fn gunicorn_takes_its_listener_systemd_style() {
    need!(python_has("gunicorn"));
    let folder = Folder::new();
    std::fs::write(folder.path().join("hello.py"), WSGI).unwrap();
    let p = reserve_port();
    let mut gunicorn = Command::new(python());
    gunicorn
        .args(["-m", "gunicorn", "hello:app"])
        .current_dir(folder.path());
    p.pass_to(&mut gunicorn).unwrap();
    let mut gunicorn = Program::start(gunicorn, folder);
    let text = gunicorn.answers(|| http_get(&p));
    assert!(text.ends_with("hello from wsgi"), "{text}");
}

#[test]
fn nginx_takes_a_descriptor_by_its_own_variable() {
    need!(installed("nginx"));
    let folder = Folder::new();
    let p = reserve_port();
    let conf = format!(
        "daemon off; worker_processes 1; pid nginx.pid; error_log stderr;\n\
         events {{}}\nhttp {{ access_log off; \
         client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; \
         uwsgi_temp_path u; scgi_temp_path s; \
         server {{ listen 127.0.0.1:{p}; return 200 inherited; }} }}\n"
    );
    std::fs::write(folder.path().join("nginx.conf"), conf).unwrap();
    let mut nginx = command("nginx", &["-e", "stderr", "-c", "nginx.conf", "-p", "."]);
    nginx.current_dir(folder.path()).env("NGINX", "9;");
    p.pass_to_fd(&mut nginx, 9).unwrap();
    let mut nginx = Program::start(nginx, folder);
    let text = nginx.answers(|| http_get(&p));
    assert!(text.ends_with("inherited"), "{text}");
    assert!(
        nginx.log().contains("using inherited sockets from \"9;\""),
        "{}",
        nginx.log()
    );
    drop(nginx);
    // The worker has ended too: otherwise the port would still listen.
    p.wait_until_free(DEADLINE).unwrap();
}
