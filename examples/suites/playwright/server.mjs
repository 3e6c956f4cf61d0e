import { createServer } from 'node:http'

const [port, says = 'web server'] = process.argv.slice(2)
createServer((_request, response) => response.end(says)).listen(Number(port), '127.0.0.1')
