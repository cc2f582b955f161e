// The package: its types hold, it publishes what it should, and it is small.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const SDK = path.resolve(HERE, '../../chatd/web/sdk');
const GZIP_BYTES_MAX = 27_500; // without comments, as the server serves it
const modules = readdirSync(SDK).filter((name) => name.endsWith('.js')).sort();

test('tsc --noEmit --checkJs --strict', () => {
  execFileSync(process.execPath, [path.join(HERE, 'node_modules/typescript/bin/tsc'), '-p', HERE], { encoding: 'utf-8' });
});

test('npm pack lists the modules, the readme and package.json', () => {
  const told = execFileSync('npm', ['pack', '--dry-run', '--json'], { cwd: SDK, encoding: 'utf-8', stdio: ['ignore', 'pipe', 'ignore'] });
  const packed = JSON.parse(told);
  const [{ files, name }] = Array.isArray(packed) ? packed : Object.values(packed);
  assert.equal(name, 'chatd');
  assert.deepEqual(files.map((file) => file.path).sort(), ['README.md', ...modules, 'package.json'].sort());
});

test('it depends on nothing, imports only itself, and has the version of the server', () => {
  const own = JSON.parse(readFileSync(path.join(SDK, 'package.json'), 'utf-8'));
  assert.deepEqual([own.dependencies, own.devDependencies], [undefined, undefined]);
  assert.match(readFileSync(path.resolve(SDK, '../../__init__.py'), 'utf-8'), new RegExp(`__version__ = "${own.version}"`));
  for (const module of modules) {
    for (const [, from] of readFileSync(path.join(SDK, module), 'utf-8').matchAll(/\bfrom '([^']+)'/g)) {
      assert.ok(modules.some((name) => from === `./${name}`), `${module}: ${from}`);
    }
  }
});

test('the core does no I/O', () => {
  const pure = ['core.js', 'hints.js', 'outqueue.js', 'protocol.js', 'rows.js', 'watermarks.js'];
  const shell = /\b(WebSocket|indexedDB|setTimeout|BroadcastChannel|performance|document|navigator|Math\.random|async|await|fetch\()/;
  for (const module of pure) {
    const code = readFileSync(path.join(SDK, module), 'utf-8').replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, '');
    assert.equal(code.match(shell)?.[0], undefined, module);
    for (const [, from] of code.matchAll(/\bfrom '\.\/([^']+)'/g)) assert.ok(pure.includes(from), `${module}: ${from}`);
  }
});

test(`its modules have at most ${GZIP_BYTES_MAX} bytes compressed`, () => {
  const lean = (/** @type {string} */ name) => readFileSync(path.join(SDK, name), 'utf-8').replace(/^[ \t]*(?:\/\/.*|\/\*[\s\S]*?\*\/[ \t]*)$/gm, '');
  const sizes = modules.map((name) => gzipSync(lean(name), { level: 9 }).length);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  assert.ok(total <= GZIP_BYTES_MAX, `${total} bytes: ${modules.map((name, i) => `${name} ${sizes[i]}`).join(', ')}`);
});
