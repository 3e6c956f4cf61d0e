// Compiled alone: the same types for require.
import portlease = require('portlease')

void portlease.waitListening(['127.0.0.1:80'], { timeout: 1000, pid: process.pid })
const error: Error = new portlease.NotListeningError('x')
void error
