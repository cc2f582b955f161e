// The one template function of all views: text in it becomes text nodes, never markup.

import htm from './vendor/htm.js';
import { h } from './vendor/preact.js';

export const html = htm.bind(h);
