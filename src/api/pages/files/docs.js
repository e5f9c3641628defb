// Shows /openapi.json.

import { byId, make, say } from './dom.js';

function operation({ path, method, op }) {
  const details = make(
    'details',
    {},
    make(
      'summary',
      {},
      make('span', { class: 'method' }, method.toUpperCase()),
      make('code', {}, path),
      ` ${op.summary ?? ''}`,
    ),
  );
  const paragraph = text => details.append(make('p', {}, text));
  if (op.description) paragraph(op.description);
  if (op.security?.length) paragraph('Needs Authorization: Bearer TOKEN.');
  for (const p of op.parameters ?? [])
    paragraph(`${p.name} (${p.in}${p.required ? ', required' : ''}): ${p.description ?? ''}`);
  const example = op.requestBody?.content?.['application/json']?.example;
  if (example) details.append(make('pre', {}, JSON.stringify(example, null, 2)));
  for (const [status, response] of Object.entries(op.responses ?? {})) paragraph(`${status}: ${response.description}`);
  return details;
}

try {
  const api = await (await fetch('/openapi.json')).json();
  say(byId('title'), `${api.info.title} API ${api.info.version}`);
  say(byId('about'), api.info.description ?? '');
  const all = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, op]) => ({ path, method, op })),
  );
  for (const [tag, list] of Map.groupBy(all, o => o.op.tags?.[0] ?? 'other')) {
    byId('paths').append(make('h2', {}, tag), ...list.map(operation));
  }
} catch (e) {
  say(byId('about'), `The description cannot be read: ${e.message}`);
}
