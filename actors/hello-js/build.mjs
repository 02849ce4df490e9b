// Makes a component of a JavaScript file: node build.mjs app.js WIT-FOLDER WORLD OUTPUT
//
// `cargo xtask actors` calls it, from a folder that has this package's dependencies. It calls the library and not
// the `jco` command, which trips over a WIT folder of several packages.

import { readFile, writeFile } from 'node:fs/promises';
import { componentize } from '@bytecodealliance/componentize-js';

const [source, witPath, worldName, output] = process.argv.slice(2);
const { component } = await componentize(await readFile(source, 'utf8'), {
  sourceName: 'app.js',
  witPath,
  worldName,
});
await writeFile(output, component);
