import { config } from '@n8n/node-cli/eslint';

export default [
	...config,
	{
		// What n8n asks of packages on npm: this one is installed from its folder, under the licence of the service.
		files: ['package.json', 'credentials/**/*.ts'],
		rules: {
			'@n8n/community-nodes/require-homepage': 'off',
			'@n8n/community-nodes/valid-author': 'off',
			'n8n-nodes-base/community-package-json-author-missing': 'off',
			'n8n-nodes-base/community-package-json-license-not-default': 'off',
			'n8n-nodes-base/cred-class-field-documentation-url-missing': 'off',
		},
	},
];
